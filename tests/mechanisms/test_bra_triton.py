"""Fused BRA in Triton where there is no GPU: numbers by the interpreter, tiles, and clear refusals."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from attnbench.mechanisms.bra import triton_operator
from attnbench.mechanisms.bra.triton_launch import LIMITS, choose_tiles, power_of_two, walks_all_keys
from attnbench.results.scripts import bra_kernels, bra_op_roofline

INTERPRETED = Path(__file__).with_name("interpreted_bra_triton.py")


@pytest.mark.slow
def test_kernels_equal_the_eager_twin_in_tritons_interpreter():
    """In a process of its own: the interpreter is chosen when Triton is imported."""
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(INTERPRETED)]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert "skipped" not in done.stdout


@pytest.mark.slow
def test_the_roofline_of_the_operator_is_rehearsed_without_a_gpu(tmp_path):
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "attnbench.results.scripts.bra_op_roofline", "--rehearse", "--out"]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    path = tmp_path / "roofline.csv"
    done = subprocess.run([*command, path], env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-1000:]
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["lepe"], row["pass"]) for row in rows] == [
        (lepe, what) for lepe in ("3", "0") for what in ("route", "forward", "backward")
    ]
    assert all(float(row["microseconds"]) > 0 < float(row["roofline_microseconds"]) for row in rows)


def test_floors_are_those_of_the_notes_page():
    """docs/bra_fused.md, stage 1 in bf16 at batch 128."""
    first = bra_kernels.problems(torch.bfloat16)[0]
    counts = [bra_op_roofline.compulsory_bytes(first, what) for what in ("route", "forward", "backward")]
    assert [round(count / 1e6) for count in counts] == [154, 308, 539]
    assert round(bra_op_roofline.flops(first, "forward") / 1e9, 1) == 9.9 + 1.9


OPTIONS = {"num_heads": 2, "region": (2, 2), "topk": 1, "lepe_kernel": 0}


def test_says_why_it_cannot_run():
    def reason(*shape, dtype=torch.float32, **options):
        qkv = torch.empty(shape or (1, 4, 4, 96), dtype=dtype, device="meta")
        return triton_operator.unsupported(qkv, **{**OPTIONS, **options})

    assert "run on CUDA devices, got a tensor on 'meta'" in reason()


@pytest.fixture
def available(monkeypatch):
    monkeypatch.setattr(triton_operator, "unavailable", lambda device: "")


@pytest.mark.parametrize(
    ("shape", "dtype", "options", "reason"),
    [
        ((1, 4, 4, 96), torch.float32, {}, ""),
        ((1, 4, 4, 96), torch.float64, {}, "got torch.float64"),
        ((1, 4, 4, 99), torch.float32, {"dim": 33}, "got widths (33, 33) in 2 heads"),
        ((1, 4, 4, 6 * 129), torch.float32, {}, "at most 128"),
        ((1, 2**12, 2**12, 384), torch.float32, {}, "fewer than 2^31"),
        ((1, 4, 4, 96), torch.float32, {"lepe_kernel": 4}, "LePE's kernel odd, got"),
        ((1, 4, 4, 96), torch.float32, {"topk": 0}, "positive"),
        ((1, 4, 4, 160), torch.bfloat16, {"dim": 32}, ""),
    ],
)
def test_refuses_what_the_kernels_cannot_take(available, shape, dtype, options, reason):
    qkv = torch.empty(shape, dtype=dtype, device="meta")
    found = triton_operator.unsupported(qkv, **{**OPTIONS, **options})
    assert reason in found
    assert bool(found) == bool(reason)


def test_a_cpu_tensor_is_refused_when_called():
    qkv, routes = torch.zeros(1, 4, 4, 96), torch.zeros(1, 4, 1, dtype=torch.int64)
    with pytest.raises(ValueError, match="CUDA devices, got a tensor on 'cpu'"):
        triton_operator.attention(
            qkv, routes, None, None, num_heads=2, region=(2, 2), scale=1.0, attend_padding=False
        )


def test_the_module_imports_without_triton():
    code = (
        "import sys; sys.modules['triton'] = None; sys.path.insert(0, sys.argv[1])\n"
        "from attnbench.mechanisms.bra import triton_operator as m; import torch\n"
        "m.importlib.util.find_spec = lambda name: None\n"
        "print(m.unsupported(torch.zeros(1, 4, 4, 96), num_heads=2, region=(2, 2), topk=1, lepe_kernel=0))"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", code, root], capture_output=True, text=True)
    assert done.stdout.strip() == "triton is not installed", done.stderr


class Allocations(TorchDispatchMode):
    """Bytes of all that operators return, as if nothing were ever freed."""

    total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor._base is None:
                self.total += tensor.nbytes
        return out


def test_memory_is_small_and_does_not_grow_with_k():
    """BiFormer's issue tracker: 600 × 500, 20 channels, 100 GB. Workspace inside the operators is not seen:
    delta, as large as the log-sum-exp, and lists of R·k numbers."""
    totals = {}
    for topk in (1, 4, 16, 49):
        qkv = torch.empty(1, 600, 500, 60, device="meta", requires_grad=True)
        taps = torch.empty(20, 1, 5, 5, device="meta", requires_grad=True)
        routes = torch.empty(1, 49, topk, dtype=torch.int64, device="meta")
        with Allocations() as seen:
            options = {"num_heads": 1, "region": (86, 72), "scale": 1.0, "attend_padding": False}
            triton_operator.attention(qkv, routes, taps, None, **options).square().sum().backward()
        totals[topk] = seen.total
    assert max(totals.values()) < 2**29
    assert len(set(totals.values())) == 1


@pytest.mark.parametrize(
    ("tokens", "regions", "topk", "masked"),
    [(64, 49, 1, False), (16, 49, 4, False), (4, 49, 16, True), (1, 49, 49, True), (4, 784, 16, False)],
)
def test_small_regions_walk_all_keys_where_that_costs_less(tokens, regions, topk, masked):
    assert walks_all_keys(tokens, regions, topk) == masked


def test_tiles_fit_the_kernels_for_any_problem():
    """Powers of two from 16 on, within the limits; a group fits its tile and does not straddle words."""
    for kernel, element_bytes in LIMITS:
        for tokens in range(1, 200):
            for topk in (1, 3, 16, 49):
                for dim in (1, 32, 48, 128):
                    masked = walks_all_keys(tokens, 49, topk)
                    tiles = choose_tiles(kernel, tokens, 49, topk, masked, dim, element_bytes)
                    for side in (tiles.queries, tiles.keys):
                        assert 16 <= side <= 64
                        assert side == power_of_two(side)
                    assert tiles.warps in (1, 2, 4, 8)
                    assert 32 % tiles.group == 0
                    assert not masked or tiles.group * tokens <= tiles.keys
