"""Peak memory and its parts, on steps whose every tensor is known."""

import csv
import io
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from command_line import call
from torch import Tensor, nn

from attnbench import AttnbenchError, create_model
from attnbench.commands import memory as memory_command
from attnbench.harness import memory
from attnbench.harness.memory import sweep
from attnbench.harness.setting import Setting, make_batch, make_step
from attnbench.layouts.swin import SWIN_PICO

CPU = torch.device("cpu")


def measured(mechanism: str, setting: Setting) -> memory.Usage:
    torch.manual_seed(0)
    model = create_model("swin_pico", mechanism)
    inputs = sum(tensor.nbytes for tensor in make_batch(model.layout, setting))
    return memory.measure(make_step(model, model.layout, setting), model, CPU, inputs)


def estimated(mechanism: str, setting: Setting, impl: str = "auto") -> memory.Usage:
    return memory.estimate(lambda: create_model("swin_pico", mechanism, impl=impl), SWIN_PICO, setting)


@pytest.mark.parametrize("mebibytes", [16, 64])
def test_a_known_allocation_is_workspace(mebibytes: int) -> None:
    def step() -> Tensor:
        return torch.ones(mebibytes * 2**18).sum()  # four bytes each, freed at the end of the step

    model = nn.Linear(256, 256)
    used = memory.measure(step, model, CPU, inputs=1000)
    held = 1000 + 4 * (256 * 256 + 256)
    assert used.peak - held == pytest.approx(mebibytes * 2**20, rel=1e-3)
    assert used.parts["workspace"] == used.peak - held
    assert used.largest is not None
    assert used.largest.bytes == mebibytes * 2**20
    assert used.largest.operator == "aten::ones"
    assert used.largest.line.startswith("tests/harness/memory/test_memory.py:")
    assert "profiler" in used.method


def test_a_training_step_counts_gradients_and_optimiser_state() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(1024, 4096), nn.Linear(4096, 10))
    weights = 4 * (1024 * 4096 + 4096 + 4096 * 10 + 10)
    setting = Setting(CPU, "infer", "fp32", 2, 32)
    used = memory.measure(make_step(model, SWIN_PICO, setting), model, CPU, inputs=0)
    assert used.parts["weights"] == weights
    assert used.peak == pytest.approx(weights, rel=0.01)
    step = make_step(model, SWIN_PICO, replace(setting, mode="train"))
    used = memory.measure(step, model, CPU, inputs=0)
    assert used.parts["gradients"] == weights
    assert used.parts["optimizer"] == pytest.approx(2 * weights, rel=1e-4)  # AdamW's moments and step counts
    assert used.parts["workspace"] <= 2 * weights  # AdamW's temporaries


class Saver(nn.Module):
    """Keeps two tensors of 4 MiB for the backward pass, and needs a third, of 8 MiB, for a moment."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        y = (x * self.scale).sigmoid()  # sigmoid keeps its result
        z = y.tanh()  # and so does tanh
        with torch.no_grad():
            torch.cat((z, z))
        return z


def test_what_autograd_keeps_is_told_from_what_is_needed_for_a_moment() -> None:
    x, model = torch.randn(2**20), Saver()

    def step() -> Tensor:
        return model(x).sum()

    used = memory.measure(step, model, CPU, x.nbytes)
    mebibytes = {part: round(size / 2**20) for part, size in used.parts.items()}
    assert mebibytes == {
        "weights": 0,
        "gradients": 0,
        "optimizer": 0,
        "inputs": 4,
        "saved": 8,
        "workspace": 8,
    }


@pytest.mark.parametrize("mode", ["infer", "train"])
@pytest.mark.parametrize("mechanism", ["bra", "deformable", "shifted_window"])
def test_parts_sum_to_the_peak_and_the_estimate_is_near(mechanism: str, mode: str) -> None:
    setting = Setting(CPU, mode, "fp32", 4, 28)
    real, fake = measured(mechanism, setting), estimated(mechanism, setting)
    for used in (real, fake):
        assert sum(used.parts.values()) == used.peak
        assert tuple(used.parts) == memory.PARTS
        assert min(used.parts.values()) >= 0
    assert fake.estimated
    assert not real.estimated
    assert fake.peak == pytest.approx(real.peak, rel=0.1)
    assert fake.parts["weights"] == real.parts["weights"]
    assert (real.parts["saved"] > 0) == (mode == "train")


def test_an_estimate_takes_no_memory_and_grows_with_the_map() -> None:
    settings = [Setting(CPU, "train", "fp32", 64, side) for side in (28, 448)]
    small, large = (estimated("full", setting, impl="eager") for setting in settings)
    assert large.peak > 2**40  # 1 TiB
    assert large.peak > 1000 * small.peak
    assert large.largest is not None
    assert large.largest.bytes == 4 * 64 * 2 * (224 * 224) ** 2  # float32, images, heads, pairs of tokens
    assert large.largest.line.startswith("mechanisms/_explicit.py:")


class NeedsNumbers(nn.Module):
    """What it does depends on the numbers in its input."""

    def forward(self, x: Tensor) -> Tensor:
        return x[: int(x.sum().item())]


def test_a_model_that_needs_numbers_cannot_be_estimated() -> None:
    with pytest.raises(AttnbenchError, match="fails on fake tensors"):
        memory.estimate(NeedsNumbers, SWIN_PICO, Setting(CPU, "infer", "fp32", 1, 28))


def command(*arguments: str) -> str:
    result = CliRunner().invoke(memory_command.command, ["identity", "--layout", "swin_pico", *arguments])
    if result.exception is not None:
        raise result.exception
    return result.stdout


def test_memory_over_resolutions_is_measured_and_estimated() -> None:
    rows = list(csv.DictReader(io.StringIO(command("--resolutions", "28,56", "--format", "csv"))))
    assert [(row["resolution"], row["figure"]) for row in rows] == [
        (side, figure) for side in ("28", "56") for figure in ("measured", "estimate")
    ]
    for row in rows:
        assert sum(int(row[part]) for part in memory.PARTS) == int(row["peak"])
        assert "harness/models/" in row["line"]
    assert int(rows[2]["saved"]) > 3 * int(rows[0]["saved"])


def test_a_step_that_would_not_fit_is_estimated_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "available", lambda device: 2**20)
    text = command()
    assert "| 28 | estimate |" in text
    assert "| 28 | measured |" not in text
    assert "not run: 0.0 GiB of memory are free" in text
    assert "not run" not in command("--estimate")


def test_memory_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    command("--estimate", "--plot", str(tmp_path / "memory.svg"))
    assert "workspace" in (tmp_path / "memory.svg").read_text()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(AttnbenchError, match=r"install attnbench\[report\]"):
        command("--estimate", "--plot", str(tmp_path / "memory.svg"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--resolutions", "28,big"], "'--resolutions': must be a whole number"),
        (["--mode", "both"], "unknown mode"),
        (["--layout", "swin_x"], "unknown layout"),
    ],
)
def test_mistakes_are_told(arguments: list[str], says: str, tmp_path: Path) -> None:
    said = call("memory", "identity", *arguments, cwd=tmp_path)
    assert not said.accepted()
    assert says in said.err


@pytest.mark.gpu
def test_memory_on_a_gpu_is_the_allocators() -> None:
    device = torch.device("cuda")
    used = memory.measure(lambda: torch.ones(2**24, device=device).sum(), nn.Identity(), device, 0)
    assert used.peak >= 2**26
    assert used.reserved is not None
    assert used.reserved >= used.peak
    assert sum(used.parts.values()) == used.peak
    assert used.method == memory.CUDA_METHOD


def test_a_part_that_compiles_itself_is_an_error_with_a_reason() -> None:
    calls: list[int] = []

    def step() -> Tensor:
        calls.append(1)
        if len(calls) > 1:  # the first step is watched by nobody
            raise RuntimeError("torch.compile with fullgraph=True found no compiled frames")
        return torch.zeros(())

    with pytest.raises(AttnbenchError, match=r"compiles itself when it runs .* take another --impl"):
        memory.measure(step, nn.Linear(1, 1), CPU, 0)
