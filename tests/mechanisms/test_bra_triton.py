"""Fused BRA in Triton where there is no GPU: numbers by the interpreter, tiles, and clear refusals."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from attnbench.mechanisms import _bra_triton
from attnbench.mechanisms._bra_triton_launch import LIMITS, choose_tiles, power_of_two, walks_all_keys

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


OPTIONS = {"num_heads": 2, "region": (2, 2), "topk": 1, "lepe_kernel": 0}


def test_says_why_it_cannot_run():
    def reason(*shape, dtype=torch.float32, **options):
        qkv = torch.empty(shape or (1, 4, 4, 96), dtype=dtype, device="meta")
        return _bra_triton.unsupported(qkv, **{**OPTIONS, **options})

    assert "run on CUDA devices, got a tensor on 'meta'" in reason()


@pytest.fixture
def available(monkeypatch):
    monkeypatch.setattr(_bra_triton, "_unavailable", lambda device: "")


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
    found = _bra_triton.unsupported(qkv, **{**OPTIONS, **options})
    assert reason in found
    assert bool(found) == bool(reason)


def test_a_cpu_tensor_is_refused_when_called():
    qkv, routes = torch.zeros(1, 4, 4, 96), torch.zeros(1, 4, 1, dtype=torch.int64)
    with pytest.raises(ValueError, match="CUDA devices, got a tensor on 'cpu'"):
        _bra_triton.attention(
            qkv, routes, None, None, num_heads=2, region=(2, 2), scale=1.0, attend_padding=False
        )


def test_the_module_imports_without_triton():
    code = (
        "import sys; sys.modules['triton'] = None; sys.path.insert(0, sys.argv[1])\n"
        "from attnbench.mechanisms import _bra_triton as m; import torch\n"
        "m.importlib.util.find_spec = lambda name: None\n"
        "print(m.unsupported(torch.zeros(1, 4, 4, 96), num_heads=2, region=(2, 2), topk=1, lepe_kernel=0))"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", code, root], capture_output=True, text=True)
    assert done.stdout.strip() == "triton is not installed", done.stderr


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
