"""Memory of one model over resolutions: an estimate for each, and a measured figure where it fits."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import psutil
import torch

from attnbench.errors import AttnbenchError
from attnbench.harness.memory.estimate import estimate
from attnbench.harness.memory.peak import measure
from attnbench.harness.memory.usage import Usage
from attnbench.harness.models.build import build
from attnbench.harness.setting import Setting, make_batch, make_step
from attnbench.layouts import get_layout
from attnbench.record import Cell
from attnbench.supervision import time_limit

LIMIT_S = 900.0
"""For a point."""
_SHARE = 0.8
"""Of the memory that is free: a step whose estimate is larger is not run."""


@dataclass(frozen=True)
class Point:
    """Memory at one resolution, in pixels a side; ``missing`` says why a figure is not there."""

    resolution: int
    estimated: Usage | None
    measured: Usage | None
    missing: str = ""
    failed: bool = False
    """The step could not be run, or its memory not be estimated where that was all that was asked."""


def sweep(
    cell: Cell, setting: Setting, resolutions: list[int], only_estimate: bool = False
) -> Iterator[Point]:
    """Points, one by one.

    Args:
        cell: the model; its resolution is replaced.
        setting: the conditions; its resolution is replaced.
        resolutions: pixels a side.
        only_estimate: run nothing.

    Raises:
        TimeoutError: a mechanism hangs.
    """
    for side in resolutions:
        here = replace(setting, resolution=side)
        with time_limit(LIMIT_S):
            point = _point(cell.model_copy(update={"resolution": side}), here, only_estimate)
        yield point


def _point(cell: Cell, setting: Setting, only_estimate: bool) -> Point:
    side, reasons = setting.resolution, []
    guess: Usage | None = None
    try:
        guess = estimate(lambda: build(cell), get_layout(cell.layout), setting)
    except AttnbenchError as error:
        reasons.append(str(error))
    free = available(setting.device)
    if only_estimate or (guess is not None and guess.peak > _SHARE * free):
        if not only_estimate:
            reasons.append(f"not run: {free / 2**30:.1f} GiB of memory are free")
        return Point(side, guess, None, "; ".join(reasons), failed=guess is None)
    try:
        return Point(side, guess, _measured(cell, setting), "; ".join(reasons))
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        reasons.append(f"{type(error).__name__}: {error}".splitlines()[0])
        return Point(side, guess, None, "; ".join(reasons), failed=True)


def _measured(cell: Cell, setting: Setting) -> Usage:
    model = build(cell)
    inputs = sum(tensor.nbytes for tensor in make_batch(model.layout, setting))
    return measure(make_step(model, model.layout, setting), model, setting.device, inputs)


def available(device: torch.device) -> int:
    """Bytes that are free on a device, or on the computer."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available
