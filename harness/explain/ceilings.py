"""The two ceilings of the roofline and the cost of a launch, measured on this device a moment before.

Source: Williams, Waterman, Patterson, 2009, "Roofline: An Insightful Visual Performance Model for Multicore
Architectures", Communications of the ACM 52(4). The bandwidth is that of STREAM's triad a = b + s·c
(McCalpin, 1995), on arrays too large for any cache.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from attnbench.harness.explain.timeline import profiled

_REPEATS = 5


@dataclass(frozen=True)
class Ceilings:
    """What this device can do at best.

    Args:
        flops_per_s: of a large square matrix product in ``dtype``; two per multiply-add.
        bytes_per_s: read and written by a triad.
        launch_s: of one operator that has nothing to do, when many follow one another; on CUDA the time that
            its kernel occupies the device.
        dtype: of the matrix product.
    """

    flops_per_s: float
    bytes_per_s: float
    launch_s: float
    dtype: str

    def floor(self, macs: int, moved: int) -> float:
        """Seconds that work takes at least: the longer of its arithmetic and its traffic."""
        return max(self.arithmetic(macs), moved / self.bytes_per_s)

    def arithmetic(self, macs: int) -> float:
        """Seconds that multiply-adds take at least."""
        return 2 * macs / self.flops_per_s

    def attainable(self, intensity: float) -> float:
        """FLOP/s on the roof above an arithmetic intensity in FLOP/byte."""
        return min(self.flops_per_s, intensity * self.bytes_per_s)


def measure(device: torch.device, precision: str) -> Ceilings:
    """Measure them, the best of several; about a second."""
    cuda = device.type == "cuda"
    dtype = torch.bfloat16 if precision == "amp" else torch.float32
    sides = (4096, 8192) if cuda else (768, 1536)
    elements = 2**27 if cuda else 2**24
    return Ceilings(
        flops_per_s=max(_matmul(side, dtype, device) for side in sides),
        bytes_per_s=_triad(elements, device),
        launch_s=_launch(device),
        dtype=str(dtype).removeprefix("torch."),
    )


def _matmul(side: int, dtype: torch.dtype, device: torch.device) -> float:
    a = torch.randn(side, side, device=device).to(dtype)
    out = torch.empty_like(a)
    return 2 * side**3 / _best(lambda: torch.mm(a, a, out=out), device)


def _triad(elements: int, device: torch.device) -> float:
    b, c, out = (torch.ones(elements, device=device) for _ in range(3))
    return 3 * out.nbytes / _best(lambda: torch.add(b, c, alpha=2.0, out=out), device)


def _launch(device: torch.device, calls: int = 2000) -> float:
    x = torch.zeros(1, device=device)

    def many() -> torch.Tensor:
        for _ in range(calls):
            x.add_(1)
        return x

    if device.type == "cuda":
        return sum(profiled(many, ["aten::add_"] * calls, device).busy) / calls
    return _best(many, device) / calls


def _best(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the quickest of several runs, after one that does not count."""
    times = []
    for _ in range(_REPEATS + 1):
        _finish(device)
        start = time.perf_counter()
        work()
        _finish(device)
        times.append(time.perf_counter() - start)
    return min(times[1:])


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
