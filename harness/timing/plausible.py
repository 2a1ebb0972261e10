"""Rates that cannot be: multiply-adds per second above what the device reaches on one large product."""

import functools
import time

import torch

from attnbench.errors import AttnbenchError
from attnbench.harness.models.build import Model
from attnbench.record import Cell

SLACK = 1.5
"""A rate may exceed the peak measured here by so much: clocks rise, and others use the machine."""
_SIDE = {"cpu": 1024, "cuda": 8192}
_BUDGET_S = 0.3


class ImplausibleError(AttnbenchError):
    """A rate that the device cannot reach; the row is void."""


def least_macs(model: Model, cell: Cell, batch: int) -> int | None:
    """Multiply-adds that a step of ``batch`` images cannot do without.

    They are those inside the pattern and, in training, those of the gradients in proportion. None if the
    mechanism has no formula; then its rate cannot be judged.
    """
    side = cell.resolution
    try:
        macs = sum(model.macs_useful(side, side).values())
        if cell.mode == "train":
            macs += (
                sum(model.macs_backward(side, side).values()) * macs // sum(model.macs(side, side).values())
            )
    except AttnbenchError:
        return None
    return macs * batch


@functools.lru_cache
def peak_macs_per_s(device: torch.device, precision: str) -> float:
    """The best rate of a square matrix product in a few tries, in the precision of the run."""
    dtype = torch.bfloat16 if precision.startswith("amp") else torch.float32
    side = _SIDE[device.type]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best, deadline = float("inf"), time.monotonic() + _BUDGET_S
    for attempt in range(1000):
        start = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if attempt:  # the first chooses and loads a kernel
            best = min(best, time.perf_counter() - start)
        if attempt and time.monotonic() > deadline:
            break
    return side**3 / best


def fault(least: int | None, step_s: float, peak: float) -> str:
    """Why a rate cannot be; empty if it can, or if nothing is known."""
    if least is None or least / step_s <= SLACK * peak:
        return ""
    return (
        f"{least / step_s / 1e9:.0f} G MACs/s, where this device reaches {peak / 1e9:.0f} on a matrix "
        "product: the work was not done"
    )
