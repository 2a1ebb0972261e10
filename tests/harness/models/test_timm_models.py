"""Our models under timm's rules: what its own tests ask of a model, written anew, and detection on top."""

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from torch import Tensor, nn

import attnbench.timm
from attnbench import AttnbenchError, UnknownNameError, layouts, names
from attnbench.harness.models.timm_models import default_cfgs, register

FEW = ["swin_pico_bra", "swin_pico_shifted_window", "swin_pico_deformable"]
EVERY = [f"swin_pico_{name}" for name in names()]
REST = [pytest.param(name, marks=pytest.mark.slow) for name in EVERY if name not in FEW]
KINDS = ["biformer_stl_bra", "biformer_tiny_bra"]  # other stems, norms and merging than Swin's
SIZE = (64, 96)


def images(model: nn.Module, batch: int = 2, size: tuple[int, int] = SIZE) -> Tensor:
    return torch.randn(batch, model.in_chans, *size, generator=torch.Generator().manual_seed(0))


def make(name: str, **options: object) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, **options)


def test_every_layout_with_every_mechanism_is_listed() -> None:
    listed = set(timm.list_models(module="timm_models"))
    assert listed == {f"{layout}_{mechanism}" for layout in layouts.names() for mechanism in names()}
    assert register() == sorted(listed) == attnbench.timm.register()  # again: nothing is registered twice
    assert "biformer_stl_bra" in timm.list_models("biformer_*")


@pytest.mark.parametrize("name", [*FEW, *KINDS, *REST])
def test_forward_and_backward(name: str) -> None:
    model = make(name, num_classes=42).train()
    logits = model(images(model))
    assert logits.shape == (2, 42)
    assert logits.isfinite().all()
    logits.mean().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []


@pytest.mark.parametrize("name", [*FEW, *KINDS, *REST])
def test_default_configuration_is_true(name: str) -> None:
    model, cfg = make(name).eval(), default_cfgs[name].default
    size = cfg.input_size[1:]
    assert (model.in_chans, model.num_classes) == (cfg.input_size[0], cfg.num_classes)
    assert model.pretrained_cfg == model.default_cfg
    assert model.pretrained_cfg["architecture"] == name
    parameters = dict(model.named_parameters())
    assert parameters[f"{cfg.first_conv}.weight"].shape[1] == model.in_chans
    assert parameters[f"{cfg.classifier}.weight"].shape == (cfg.num_classes, model.num_features)
    with torch.no_grad():
        features = model.forward_features(images(model, 1, size))
    assert features.shape == (1, *cfg.pool_size, model.num_features)


@pytest.mark.parametrize("name", [*FEW, *KINDS])
def test_head(name: str) -> None:
    model = make(name).eval()
    x = images(model)
    with torch.no_grad():
        features = model.forward_features(x)
        torch.testing.assert_close(model.forward_head(features), model(x))
        pooled = model.forward_head(features, pre_logits=True)
        torch.testing.assert_close(pooled, features.mean((1, 2)))
        assert model.get_classifier().out_features == model.num_classes
        model.reset_classifier(0)
        assert (model.num_classes, type(model.get_classifier())) == (0, nn.Identity)
        torch.testing.assert_close(model(x), pooled)
        model.reset_classifier(0, "")
        torch.testing.assert_close(model(x), features)
        model.reset_classifier(3, "catavgmax")
        assert (model(x).shape, model.num_classes, model.head_hidden_size) == ((2, 3), 3, 2 * pooled.shape[1])


def test_head_with_token_labels() -> None:
    model = make("biformer_small_token_labels_identity").eval()
    assert model.default_cfg["classifier"] == ("head.fc", "aux_head")
    with torch.no_grad():
        model.reset_classifier(3)
        logits, tokens = model.forward_dense(images(model))
        assert (logits.shape, tokens.shape) == ((2, 3), (2, 2, 3, 3))
        model.reset_classifier(0)
        assert model(images(model)).shape == (2, 512)


@pytest.mark.parametrize("name", [*FEW, *KINDS, *REST])
@pytest.mark.parametrize("size", [(64, 64), (60, 92)])
def test_features(name: str, size: tuple[int, int]) -> None:
    model = make(name, features_only=True).eval()
    first = layouts.get_layout(name.rpartition("_bra")[0] or "swin_pico").patch_size
    assert model.feature_info.reduction() == [first, 2 * first, 4 * first, 8 * first]
    with torch.no_grad():
        maps = model(images(model, 1, size))
    expected = [
        (1, channels, -(-size[0] // stride), -(-size[1] // stride))
        for channels, stride in zip(
            model.feature_info.channels(), model.feature_info.reduction(), strict=True
        )
    ]
    assert [tuple(m.shape) for m in maps] == expected
    assert all(m.isfinite().all() and m.is_contiguous() for m in maps)


@pytest.mark.parametrize("layout", ["swin_t", "biformer_stl"])
@pytest.mark.parametrize("mechanism", names())
def test_features_of_large_models(layout: str, mechanism: str) -> None:
    """Four maps at strides 4, 8, 16 and 32; at 200 × 304 no stage divides them all."""
    with torch.device("meta"):
        model = timm.create_model(f"{layout}_{mechanism}", features_only=True, impl="eager").eval()
        square, wide = (model(torch.empty(1, 3, *size)) for size in ((224, 224), (200, 304)))
    assert model.feature_info.reduction() == [4, 8, 16, 32]
    assert model.feature_info.channels() == [96, 192, 384, 768]
    assert [m.shape[1:] for m in square] == [(96, 56, 56), (192, 28, 28), (384, 14, 14), (768, 7, 7)]
    assert [m.shape[1:] for m in wide] == [(96, 50, 76), (192, 25, 38), (384, 13, 19), (768, 7, 10)]


def test_features_of_some_stages() -> None:
    model = make("swin_pico_bra", features_only=True, out_indices=(0, 2))
    assert (model.feature_info.channels(), len(model(images(model)))) == ([16, 64], 2)
    assert not any(name.startswith("model.layers.3") for name, _ in model.named_parameters())


def test_intermediates() -> None:
    model = make("biformer_stl_identity").eval()
    x = images(model)
    with torch.no_grad():
        last, maps = model.forward_intermediates(x)
        torch.testing.assert_close(last, model.forward_features(x))
        assert [m.shape[1] for m in maps] == [96, 192, 384, 768]
        normed = model.forward_intermediates(x, [-1], norm=True, intermediates_only=True)
        torch.testing.assert_close(normed[0], last.permute(0, 3, 1, 2))
        early, two = model.forward_intermediates(x, [0, 1], stop_early=True, output_fmt="NHWC")
        torch.testing.assert_close(two[1], maps[1].permute(0, 2, 3, 1))
        torch.testing.assert_close(early, two[1])
        assert len(model.forward_intermediates(x, 2, intermediates_only=True)) == 2
    with pytest.raises(AttnbenchError, match="there are 4 stages, got indices"):
        model.forward_intermediates(x, [4])
    with pytest.raises(AttnbenchError, match="output_fmt must be 'NCHW' or 'NHWC', got 'NLC'"):
        model.forward_intermediates(x, output_fmt="NLC")


@pytest.mark.parametrize("name", [*FEW, *KINDS, *REST])
def test_checkpointing_gives_the_same_gradients(name: str) -> None:
    gradients = []
    for enable in (False, True):
        model = make(name, num_classes=3, drop_path_rate=0.3).train()
        model.set_grad_checkpointing(enable)
        torch.manual_seed(1)  # drop path draws from it, when a block is run again too
        model(images(model)).square().mean().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters()})
    torch.testing.assert_close(gradients[0], gradients[1])


def test_checkpointing_keeps_less() -> None:
    def kept(enable: bool) -> int:
        model = make("biformer_tiny_bra").train()
        model.set_grad_checkpointing(enable)
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            sizes[tensor.data_ptr()] = tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = model(images(model)).sum()
        loss.backward()
        return sum(sizes.values())

    assert kept(True) < 0.5 * kept(False)


@pytest.mark.parametrize("name", [*FEW, *KINDS])
def test_layer_decay(name: str) -> None:
    model = make(name)
    decay = model.no_weight_decay()
    groups = param_groups_layer_decay(model, weight_decay=0.05, layer_decay=0.5, no_weight_decay_list=decay)
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert len(scale) == len(list(model.parameters()))
    ordered = [model.patch_embed, *model.blocks(), model.head]
    by_depth = [{scale[id(p)] for p in part.parameters()} for part in ordered]
    assert all(len(scales) == 1 for scales in by_depth)
    flat = [scales.pop() for scales in by_depth]
    assert flat == sorted(flat)
    assert len(set(flat)) == len(flat)
    assert flat[-1] == 1.0
    for parameter_name, parameter in model.named_parameters():
        exempt = parameter.ndim <= 1 or parameter_name in decay
        assert decays[id(parameter)] == (0.0 if exempt else 0.05)
    assert ("shifted_window" in name) == any(n.endswith("attn.bias_table") for n in decay)


def test_coarse_groups_are_stages() -> None:
    matcher = make("swin_pico_bra").group_matcher(coarse=True)
    groups = timm.models.group_parameters(make("swin_pico_bra"), matcher)
    assert len(groups) == 6  # stem, four stages, head


def test_a_step_by_timm() -> None:
    model = make("swin_pico_bra", drop_rate=0.1, drop_path_rate=0.1).train()
    optimizer = create_optimizer_v2(model, "adamw", lr=1e-2, weight_decay=0.05, layer_decay=0.75)
    labels, losses = torch.tensor([1, 2]), []
    for _ in range(8):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images(model)), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_options() -> None:
    model = make(
        "biformer_tiny_bra", in_chans=4, img_size=(160, 160), global_pool="max", topk=2, impl="eager"
    )
    assert model.patch_embed.conv1.weight.shape[1] == 4
    assert (model.layout.img_size, model.global_pool) == (160, "max")
    assert model.attentions()[0].topk == 2
    assert make("swin_pico_bra", img_size=(96, 64)).layout.img_size == 96  # of two sides the larger
    with pytest.raises(AttnbenchError, match="img_size must be a number of pixels, or height and width"):
        make("swin_pico_bra", img_size=(96, 0))
    with pytest.raises(UnknownNameError, match="unknown global_pool 'mean'"):
        make("swin_pico_bra", global_pool="mean")
    with pytest.raises(TypeError, match="unknown option of bra 'colour'"):
        make("swin_pico_bra", colour="red")
    with pytest.raises(AttnbenchError, match="swin_pico_bra has no weights to download"):
        make("swin_pico_bra", pretrained=True)


@pytest.mark.parametrize("name", EVERY)
def test_sizes_of_images_and_head(name: str) -> None:
    model = make(name, img_size=44, in_chans=3, num_classes=5, drop_path_rate=0.1, drop_rate=0.1).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, 44, 44)).shape == (1, 5)
        assert model(torch.randn(1, 3, 50, 30)).shape == (1, 5)


def test_device_and_dtype() -> None:
    model = make("swin_pico_shifted_window", device="meta", dtype=torch.bfloat16)
    model.reset_classifier(3)
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", torch.bfloat16)}
    image = torch.empty(1, 1, *SIZE, device="meta", dtype=torch.bfloat16)
    assert model(image).dtype == torch.bfloat16


def test_weights_by_timms_own_loader(tmp_path: Path) -> None:
    model = make("swin_pico_bra")
    torch.save({"state_dict": model.state_dict()}, tmp_path / "weights.pth")
    again = timm.create_model("swin_pico_bra", checkpoint_path=str(tmp_path / "weights.pth"))
    torch.testing.assert_close(again.state_dict(), model.state_dict())


def test_scripts_run_with_our_models_known(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("import sys, timm; print(timm.is_model('swin_t_bra'), sys.argv[1:])")
    arguments = [sys.executable, "-m", "attnbench.timm"]
    done = subprocess.run(
        [*arguments, str(script), "--model", "x"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "True ['--model', 'x']\n"


@pytest.mark.parametrize(
    ("script", "complaint"), [("none.py", "there is no script none.py"), (None, "usage")]
)
def test_a_script_that_is_not_there(
    script: str | None, complaint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["attnbench.timm", *filter(None, [script])])
    with pytest.raises(SystemExit) as ended:
        attnbench.timm.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(complaint)


@pytest.mark.parametrize("name", ["swin_t_shifted_window", "biformer_stl_bra", "biformer_tiny_cross_shaped"])
def test_retinanet(name: str) -> None:
    """A training step and detections of torchvision's RetinaNet, with FPN, on our maps."""
    detection = pytest.importorskip("torchvision.models.detection")
    fpn = pytest.importorskip("torchvision.ops.feature_pyramid_network")

    class Body(nn.Module):
        """What torchvision takes: a backbone with ``out_channels`` that returns maps by name."""

        out_channels = 64

        def __init__(self) -> None:
            super().__init__()
            self.maps = make(name, features_only=True, out_indices=(1, 2, 3))
            channels = self.maps.feature_info.channels()
            self.fpn = fpn.FeaturePyramidNetwork(channels, 64, fpn.LastLevelP6P7(64, 64))

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return self.fpn(dict(zip("345", self.maps(x), strict=True)))

    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        model = detection.RetinaNet(Body(), num_classes=3, min_size=160, max_size=240)
    pictures = [torch.rand(3, 150, 220), torch.rand(3, 200, 160)]
    box, label = torch.tensor([[20.0, 30.0, 90.0, 120.0]]), torch.tensor([1])
    losses = model.train()(pictures, [{"boxes": box, "labels": label}] * 2)
    sum(losses.values()).backward()
    gradients = [p.grad for p in model.backbone.maps.parameters()]
    assert all(g is not None and g.isfinite().all() for g in gradients)
    with torch.no_grad():
        detections = model.eval()(pictures)
    assert [set(d) for d in detections] == [{"boxes", "scores", "labels"}] * 2
