"""With shifted windows in ``swin_t`` it is timm's model; with BRA in BiFormer's layouts, the authors'."""

import pytest
import timm
import torch

from attnbench import AttnbenchError, UnknownNameError, create_model, layouts, names
from attnbench.configurations import CONFIGURATIONS
from attnbench.harness.counting import macs
from attnbench.harness.models.backbone import Backbone
from attnbench.harness.models.checkpoints import from_timm_swin
from attnbench.layouts.swin import SWIN_T


def on_meta(mechanism: str, layout: str = "swin_t", **options: object) -> Backbone:
    with torch.device("meta"):
        return create_model(layout, mechanism, impl="eager", **options).eval()


def test_equals_timm_swin_tiny() -> None:
    torch.manual_seed(0)
    official = timm.create_model("swin_tiny_patch4_window7_224").eval()
    ours = create_model("swin_t", "shifted_window").eval()
    ours.load_state_dict(from_timm_swin(official.state_dict()))
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), official(images), rtol=0, atol=1e-5)
    assert sum(p.numel() for p in ours.parameters()) == 28_288_354


def test_training_behaves_as_timm() -> None:
    torch.manual_seed(0)
    official = timm.create_model("swin_tiny_patch4_window7_224", drop_path_rate=0.2)
    ours = create_model("swin_t", "shifted_window")
    rates = [
        getattr(block.drop_path1, "drop_prob", 0.0) for stage in official.layers for block in stage.blocks
    ]
    own = [getattr(b.drop_path, "drop_prob", 0.0) for stage in ours.layers for b in stage.blocks]
    assert own == pytest.approx(rates)


def test_checkpoint_of_another_model_is_refused() -> None:
    with pytest.raises(AttnbenchError, match="not a state dict of timm's Swin"):
        from_timm_swin({"conv1.weight": torch.zeros(1)})


# Totals at 224 × 224 in G MACs: what each mechanism's definition costs in this layout, worked out by hand.
TOTALS = {
    "shifted_window": 4.4906,
    "bra": 4.5739,
    "sequential_axial": 4.4484,
    "criss_cross": 4.5436,
    "deformable": 4.5635,
    "neighborhood": 4.4906,
    "full": 8.7833,
    "dilated": 4.4906,
    "block_grid": 4.4906,
    "spatially_separable": 4.3939,
    "cross_shaped": 4.5603,
    "spatial_reduction": 4.2973,
    "quadtree": 4.8936,
    "identity": 2.9632,
}


@pytest.mark.parametrize("name", TOTALS)
def test_total_in_the_swin_t_layout(name: str) -> None:
    total = sum(on_meta(name).macs(224, 224).values())
    assert f"{total / 1e9:.4f}" == f"{TOTALS[name]:.4f}"


# Parameters, and MACs in G at 224 × 224, of the official models as their authors' code gives them (counted).
OFFICIAL = {
    "biformer_t": (13_142_760, "2.2159"),
    "biformer_s": (25_536_232, "4.4636"),
    "biformer_b": (56_804_968, "9.7590"),
    "biformer_stl": (28_372_552, "4.5739"),
    "biformer_stl_nchw": (28_372_552, "4.5739"),
    "biformer_stl_overlapped": (30_347_560, "4.9225"),
    "biformer_deeper": (25_461_992, "4.4438"),
    "stl_s7_k1_4_16_49": (28_377_160, "4.5776"),
    "stl_s7_k1_2_8_32": (28_377_160, "4.5268"),
    "stl_s7_k2_8_32_49": (28_377_160, "4.7510"),
    "stl_s8_4_2_1_k2_2_2_1": (28_377_160, "4.6600"),
    "maxvit_stl": (28_285_666, "4.4906"),
    "swin_t": (28_288_354, "4.4906"),
    # with token labelling: a head of C·1000 + 1000 parameters, run on 49 tokens
    "biformer_s_token_labels": (25_536_232 + 513_000, "4.4887"),
    "biformer_b_token_labels": (56_804_968 + 769_000, "9.7966"),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_models_to_the_last_parameter_and_mac(name: str) -> None:
    layout, mechanism, options = CONFIGURATIONS[name]
    model = on_meta(mechanism, layout, **options)
    with torch.device("meta"):
        counted = macs.count(model, torch.empty(1, 3, 224, 224))
    parameters = sum(p.numel() for p in model.parameters())
    assert (parameters, f"{counted / 1e9:.4f}") == OFFICIAL[name]
    assert counted == sum(model.macs(224, 224).values())


def quick(*chosen: str) -> list[object]:
    """All layouts, those not named marked as slow."""
    return [
        name if name in chosen else pytest.param(name, marks=pytest.mark.slow) for name in layouts.names()
    ]


@pytest.mark.parametrize("layout", quick("swin_t", "swin_pico", "biformer_tiny"))
@pytest.mark.parametrize("name", names())
def test_every_mechanism_sits_in_every_layout(name: str, layout: str) -> None:
    model = on_meta(name, layout)
    with torch.device("meta"):
        image = torch.empty(2, model.layout.in_chans, 72, 40)
    assert model(image).shape == (2, model.layout.num_classes)


@pytest.mark.parametrize("layout", quick("swin_t", "biformer_stl", "biformer_tiny", "maxvit_stl"))
@pytest.mark.parametrize("name", ["bra", "sequential_axial"])
def test_formula_of_a_layout_is_the_count(name: str, layout: str) -> None:
    model, size = on_meta(name, layout), (70, 102)  # padded in every stage
    with torch.device("meta"):
        image = torch.empty(1, model.layout.in_chans, *size)
    assert sum(model.macs(*size).values()) == macs.count(model, image)
    backward = macs.count_backward(model.train(), image)
    assert sum(model.macs_backward(*size).values()) == backward.macs


def test_defaults_of_a_layout_are_for_its_own_mechanism_and_can_be_overridden() -> None:
    last = on_meta("bra", "biformer_stl").attentions()[-1]
    assert (last.full.num_heads, last.full.qkv.bias, last.full.lepe_input) == (8, None, "x")
    last = on_meta("bra", "biformer_stl", full_num_heads=4).attentions()[-1]
    assert last.full.num_heads == 4
    last = on_meta("bra", "swin_t").attentions()[-1]
    assert (last.full.num_heads, last.full.qkv.bias is None) == (24, False)
    assert on_meta("full", "biformer_stl").attentions()[-1].num_heads == 24


def test_token_labels_add_half_of_the_best_token() -> None:
    torch.manual_seed(0)
    model = create_model("biformer_small_token_labels", "identity", num_classes=5).eval()
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        logits, tokens = model.forward_dense(images)
        assert (logits.shape, tokens.shape) == ((2, 5), (2, 2, 3, 5))
        torch.testing.assert_close(model(images), logits + 0.5 * tokens.flatten(1, 2).max(1).values)
    with pytest.raises(AttnbenchError, match="swin_pico has no token labels"):
        create_model("swin_pico", "identity").forward_dense(images)


@pytest.mark.parametrize("layout", ["swin_t", "swin_pico", "biformer_stl", "biformer_tiny"])
def test_maps_lie_as_they_are_indexed(layout: str) -> None:
    """What a view of (B, C, H, W) would cost the layers behind it is paid once, in the stem."""
    model = create_model(layout, "identity").train()
    x = model.patch_embed(torch.randn(2, model.layout.in_chans, 60, 92))
    assert x.is_contiguous()
    for stage in model.layers:
        x = stage(x)
        assert x.is_contiguous()


def test_formula_without_classifier_or_pooling() -> None:
    for options in ({"num_classes": 0}, {"global_pool": ""}, {"global_pool": "catavgmax"}):
        model = on_meta("identity", "biformer_small_token_labels", **options)
        with torch.device("meta"):
            counted = macs.count(model, torch.empty(1, 3, 64, 96))
        assert counted == sum(model.macs(64, 96).values())


def test_sites_of_the_swin_t_layout() -> None:
    sites = list(SWIN_T.sites(224, 224))
    assert [s.height for s in sites] == [56] * 2 + [28] * 2 + [14] * 6 + [7] * 2
    assert {s.head_dim for s in sites} == {32}
    assert [s.block for s in sites] == [0, 1, 0, 1, 0, 1, 2, 3, 4, 5, 0, 1]


def test_options() -> None:
    model = create_model("swin_pico", "shifted_window", num_classes=7, in_chans=2, window_size=(2, 4, 2, 4))
    assert model(torch.zeros(1, 2, 32, 32)).shape == (1, 7)
    assert [attention.window for attention in model.attentions()][::2] == [(2, 2), (4, 4), (2, 2), (4, 4)]


def test_mistakes() -> None:
    with pytest.raises(UnknownNameError, match="layout 'swin'"):
        create_model("swin", "full")
    with pytest.raises(AttnbenchError, match="unknown option of full 'colour'"):
        create_model("swin_pico", "full", colour="red")
