"""The layout is Swin-T: with shifted windows in the hole it is timm's model, to the last parameter."""

import pytest
import timm
import torch

from attnbench import AttnbenchError, UnknownNameError, create_model, names
from attnbench.harness.models.backbone import Backbone
from attnbench.harness.models.checkpoints import from_timm_swin
from attnbench.layouts import LAYOUTS, SWIN_T


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


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", names())
def test_every_mechanism_sits_in_every_layout(name: str, layout: str) -> None:
    model = on_meta(name, layout)
    with torch.device("meta"):
        image = torch.empty(2, model.layout.in_chans, 72, 40)
    assert model(image).shape == (2, model.layout.num_classes)


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
    with pytest.raises(AttnbenchError, match="unexpected keyword argument 'colour'"):
        create_model("swin_pico", "full", colour="red")
