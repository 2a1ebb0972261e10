"""Official weights become ours: every name and shape at full size, and equal models with seeded values."""

import argparse
import importlib.util
import os
import pickle
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from attnbench import AttnbenchError, UnknownNameError, create_model, get, layouts
from attnbench.__main__ import main
from attnbench.configurations import CONFIGURATIONS
from attnbench.harness.models.backbone import Backbone
from attnbench.harness.models.checkpoints import CheckpointError, fit, load_checkpoint
from attnbench.harness.models.key_maps import recognise
from attnbench.harness.models.weights import read_state_dict, write_state_dict
from attnbench.harness.visualize.reads import reads
from attnbench.harness.visualize.view import Asked, attention_input, attention_of, one_token
from attnbench.layouts import Layout


def _official() -> ModuleType:
    path = Path(__file__).with_name("official_biformer.py")
    spec = importlib.util.spec_from_file_location("official_biformer", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


official = _official()
FORMS = {"stl": "biformer_stl", "stl_nchw": "biformer_stl_nchw", "biformer": "biformer"}
FORMS["biformer_nchw"] = "biformer_nchw"


def small(layout: Layout) -> Layout:
    return replace(layout, embed_dim=32, head_dim=16, depths=(1, 1, 2, 1), num_classes=5)


def build(layout: Layout, form: str) -> Backbone:
    lepe = "v" if form.endswith("nchw") else "x"
    return Backbone(layout, get("bra"), impl="eager", options={"full_lepe_input": lepe}).eval()


@pytest.mark.parametrize(
    ("configuration", "form"),
    [
        ("biformer_stl", "stl"),
        ("biformer_stl_nchw", "stl_nchw"),
        ("biformer_stl_overlapped", "biformer"),
        ("biformer_t", "biformer"),
        ("biformer_s", "biformer"),
        ("biformer_s", "biformer_nchw"),
        ("biformer_b", "biformer"),
    ],
)
def test_names_and_shapes_at_full_size(configuration: str, form: str) -> None:
    layout, _, _ = CONFIGURATIONS[configuration]
    shapes = official.names_and_shapes(form, layouts.get_layout(layout))
    with torch.device("meta"):
        model = build(layouts.get_layout(layout), form)
        state = {name: torch.empty(shape) for name, shape in shapes.items()}
    assert recognise(state) == FORMS[form]
    fitted = fit(model, state, FORMS[form])
    model.load_state_dict(fitted, assign=True)  # strict: each name once
    parameters = [v for n, v in state.items() if "running" not in n and "tracked" not in n]
    assert sum(v.numel() for v in parameters) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("form", FORMS)
def test_models_with_official_weights_are_the_official_models(form: str, tmp_path: Path) -> None:
    layout = small(layouts.get_layout("biformer_stl" if form.startswith("stl") else "biformer_tiny"))
    state = official.state_dict(form, layout)
    torch.save({"model": state, "epoch": 3}, tmp_path / "official.pth")
    model = build(layout, form)
    loaded = load_checkpoint(model, tmp_path / "official.pth")
    assert (loaded.key_map, loaded.part, loaded.tensors) == (FORMS[form], "model", len(state))
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = official.logits(state, form, layout, images)
        torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-4 * float(expected.std()))


def test_pictures_show_a_model_with_official_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = replace(small(layouts.get_layout("biformer_stl")), name="biformer_few")
    monkeypatch.setitem(layouts._registered, layout.name, layout)
    path = tmp_path / "biformer_few.pth"
    torch.save({"model": official.state_dict("stl", layout), "epoch": 3}, path)
    asked = Asked("bra", "biformer_few", stage=2, block=1, token=(3, 2), checkpoint=path)
    view = one_token(asked)
    assert "weights of biformer_few.pth" in view.title
    model = build(layout, "stl")
    load_checkpoint(model, path)
    x = attention_input(model, view.image, 2, 1)
    expected = reads(attention_of(model, 2, 1), x, view.queries)
    torch.testing.assert_close(view.reads.weights, expected.weights)
    assert view.routed[0].sum() == (expected.weights > 0).sum()
    different = one_token(replace(asked, checkpoint=None)).reads.weights
    assert (different - expected.weights).abs().max() > 1e-3, "random weights read otherwise"


def test_the_other_form_is_refused_since_its_shapes_do_not_tell(tmp_path: Path) -> None:
    layout = small(layouts.get_layout("biformer_stl"))
    torch.save(official.state_dict("stl_nchw", layout), tmp_path / "nchw.pth")
    with pytest.raises(AttnbenchError, match="need full_lepe_input='v', but the model has 'x'"):
        load_checkpoint(build(layout, "stl"), tmp_path / "nchw.pth")


def microsoft(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's names as Microsoft has them: merging ends a stage instead of beginning the next."""
    named = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] == "layers" and parts[2] == "downsample":
            parts[1] = str(int(parts[1]) - 1)
        named[".".join(parts).replace("head.fc.", "head.")] = value
    return named


@pytest.mark.parametrize(
    ("key_map", "rename"), [("timm_swin", dict), ("swin", microsoft)], ids=["timm", "microsoft"]
)
def test_swin(key_map: str, rename: Callable[..., dict[str, Tensor]], tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = timm.create_model("swin_tiny_patch4_window7_224", num_classes=5).eval()
    torch.save({"state_dict": rename(theirs.state_dict())}, tmp_path / "swin.pth")
    path = str(tmp_path / "swin.pth")
    ours = create_model("swin_t", "shifted_window", num_classes=5, checkpoint=path).eval()
    assert recognise(rename(theirs.state_dict())) == key_map
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=0, atol=1e-5)


@pytest.fixture
def pico() -> Backbone:
    torch.manual_seed(0)
    return create_model("swin_pico", "bra")


def test_a_misfit_lists_names_and_leaves_the_model_alone(pico: Backbone, tmp_path: Path) -> None:
    state = {name: value + 1 for name, value in pico.state_dict().items()}
    del state["norm.weight"]
    state["extra"] = torch.zeros(1)
    state["head.fc.bias"] = torch.zeros(3)
    torch.save(state, tmp_path / "ours.pth")
    before = pico.state_dict()["norm.bias"].clone()
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(pico, tmp_path / "ours.pth")
    assert "1 missing: norm.weight; 1 unexpected: extra" in str(caught.value)
    assert "1 of another shape: head.fc.bias (3,) for (10,)" in str(caught.value)
    assert (caught.value.missing, caught.value.unexpected) == (["norm.weight"], ["extra"])
    assert torch.equal(pico.state_dict()["norm.bias"], before)


class Malice:
    """Creates a file when unpickled by an ordinary reader."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_code_is_refused_and_does_not(zipped: bool, tmp_path: Path) -> None:
    path, made = tmp_path / "bad.pth", tmp_path / "made"
    torch.save({"model": Malice(made)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(AttnbenchError, match=r"bad.pth is refused: it holds .*only tensors are read"):
        read_state_dict(path)
    assert not made.exists()
    torch.load(path, weights_only=False)  # the test would mean nothing if the file were harmless
    assert made.exists()


def test_settings_of_a_training_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = ModuleType("omegaconf")
    config = type("DictConfig", (), {"__module__": "omegaconf"})
    fake.DictConfig = config  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "omegaconf", fake)
    settings = config()
    settings.lr = 1.0
    arguments = argparse.Namespace(lr=1.0)
    content = {"model": {"module.w": torch.ones(2)}, "args": arguments, "config": settings}
    torch.save({**content, "model_ema": {"w": torch.zeros(2)}}, tmp_path / "run.pth")
    monkeypatch.delitem(sys.modules, "omegaconf")
    state, part = read_state_dict(tmp_path / "run.pth")
    assert (list(state), part) == (["w"], "model")
    assert read_state_dict(tmp_path / "run.pth", "model_ema")[0]["w"].sum() == 0
    with pytest.raises(AttnbenchError, match="has no part 'state_dict'; it has model, model_ema"):
        read_state_dict(tmp_path / "run.pth", "state_dict")


def test_files_that_are_no_checkpoints(tmp_path: Path, pico: Backbone) -> None:
    path = tmp_path / "file.pth"
    with pytest.raises(AttnbenchError, match="there is no file"):
        read_state_dict(path)
    path.write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(AttnbenchError, match="cannot be read as a file of"):
        read_state_dict(path)
    path.write_bytes(b"")
    with pytest.raises(AttnbenchError, match="cannot be read as a file of"):
        read_state_dict(path)
    path.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(AttnbenchError, match=r"file\.pth"):
        read_state_dict(path)
    torch.save([torch.zeros(1)], path)
    with pytest.raises(AttnbenchError, match="holds a list; expected a state dict"):
        read_state_dict(path)
    torch.save({"epoch": 1}, path)
    with pytest.raises(AttnbenchError, match="holds no tensors"):
        read_state_dict(path)
    (tmp_path / "file.safetensors").write_bytes(b"nothing")
    with pytest.raises(AttnbenchError, match="is no safetensors file"):
        read_state_dict(tmp_path / "file.safetensors")
    torch.save({"conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(AttnbenchError, match="of no implementation that is known"):
        load_checkpoint(pico, path)
    with pytest.raises(UnknownNameError, match="key map 'torch'"):
        load_checkpoint(pico, path, "torch")


def test_the_best_of_a_training_of_ours_loads(tmp_path: Path, pico: Backbone) -> None:
    path, own = tmp_path / "best.safetensors", pico.state_dict()
    ema = {f"ema.{name}": value * 2 for name, value in own.items()}
    write_state_dict({f"model.{name}": value for name, value in own.items()} | ema, path)
    other = create_model("swin_pico", "bra")
    assert load_checkpoint(other, path).key_map == "attnbench"
    assert all(torch.equal(value, own[name]) for name, value in other.state_dict().items())


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], pico: Backbone) -> None:
    weights, output = tmp_path / "weights.pth", tmp_path / "ours.safetensors"
    torch.save({"state_dict": pico.state_dict()}, weights)
    arguments = ["load", "swin_pico_bra", "--checkpoint", str(weights), "--output", str(output)]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "by key map attnbench" in printed
    assert "none missing, none left over" in printed
    again, _ = read_state_dict(output)
    assert all(torch.equal(again[name], value) for name, value in pico.state_dict().items())
    with pytest.raises(SystemExit) as ended:
        main(["load", "swin_pico_full", "--checkpoint", str(weights)])
    assert ended.value.code == 2
    assert "does not fit swin_pico with full" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["load", "biformer_x", "--checkpoint", str(weights)])
    assert "unknown model 'biformer_x'; did you mean" in capsys.readouterr().err
