"""The multiply-adds of a model, of every kind that is told apart, as the measurements of one cell.

``macs``, ``macs_backward``: by formula, which must agree with ``..._counted``: torch's counter on the eager
implementation, the definition. ``macs_issued``: counted on the implementation that runs, which may compute
more than the definition. ``macs_useful``: of the formula, what falls inside the pattern. ``macs_dense``: if
attention were full. A count is on one image; a cost per image does not depend on the batch.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from attnbench.errors import AttnbenchError
from attnbench.harness.counting import macs
from attnbench.harness.models.backbone import executed_impl
from attnbench.harness.models.build import Model
from attnbench.record import Cell, Measurement

Build = Callable[[str], Model]
"""Makes the model with the implementation it is given, on torch's default device."""
Count = Callable[[nn.Module, torch.Tensor], macs.Count]


def measure(cell: Cell, build: Build) -> list[Measurement]:
    """All kinds of MACs of one model at the cell's resolution.

    A kind that cannot be had is a measurement with the reason: one without a formula has only counts.
    """
    counting = _Counting(cell, build)
    model = counting.model("eager")
    counted = counting.count("eager", macs.count_forward)
    found = [_of(cell, "macs_counted", counted, implementation="eager"), _issued(counting, counted)]
    try:
        phases = model.macs(cell.resolution, cell.resolution)
    except AttnbenchError as error:
        return [*found, _failed(cell, "macs", error)]
    found += [_of_formula(cell, "macs", phases, counted), *_backward(counting)]
    for name, kind in (("macs_useful", model.macs_useful), ("macs_dense", model.macs_dense)):
        phases = kind(cell.resolution, cell.resolution)
        found.append(_plain(cell, name, sum(phases.values()), details={"phases": phases}))
    return found


class _Counting:
    """Counts the models of one cell; those on meta tensors are built once."""

    def __init__(self, cell: Cell, build: Build) -> None:
        self.cell, self.build = cell, build
        self.models: dict[str, Model] = {}

    def model(self, impl: str) -> Model:
        """The model with an implementation, on meta tensors."""
        if impl not in self.models:
            with torch.device("meta"):
                self.models[impl] = self.build(impl)
        return self.models[impl]

    def count(self, impl: str, count: Count) -> macs.Count:
        """A count on meta tensors; on a CPU if an operator, which then is uncounted, has no rule for them."""
        try:
            return self._on(torch.device("meta"), self.model(impl), count)
        except macs.NoShapeRuleError:
            with torch.device("cpu"):
                return self._on(torch.device("cpu"), self.build(impl), count)

    def _on(self, device: torch.device, model: Model, count: Count) -> macs.Count:
        side = self.cell.resolution
        return count(
            model.train(count is macs.count_backward),
            torch.zeros(1, model.layout.in_chans, side, side, device=device),
        )


def _backward(counting: _Counting) -> list[Measurement]:
    cell = counting.cell
    try:
        counted = counting.count("eager", macs.count_backward)
    except Exception as error:  # an operator without a backward pass, say
        return [_failed(cell, "macs_backward_counted", error)]
    phases = counting.model("eager").macs_backward(cell.resolution, cell.resolution)
    return [
        _of(cell, "macs_backward_counted", counted, implementation="eager"),
        _of_formula(cell, "macs_backward", phases, counted),
    ]


def _issued(counting: _Counting, counted: macs.Count) -> Measurement:
    """Of the implementation that runs; ``counted`` where that is the eager one."""
    cell = counting.cell
    impl = executed_impl(counting.model(cell.impl))
    try:
        issued = counted if impl == "eager" else counting.count(cell.impl, macs.count_forward)
    except Exception as error:  # a back end may not know meta tensors
        return _failed(cell, "macs_issued", error, implementation=impl)
    return _of(cell, "macs_issued", issued, implementation=impl)


def _of(cell: Cell, name: str, counted: macs.Count, **fields: Any) -> Measurement:
    details = {"lower_bound": bool(counted.uncounted), "uncounted": list(counted.uncounted)}
    return _plain(cell, name, counted.macs, details=details, **fields)


def _of_formula(cell: Cell, name: str, phases: dict[str, int], counted: macs.Count) -> Measurement:
    """The formula's total; a failure where it is not the count, or less than a lower bound."""
    total = sum(phases.values())
    details: dict[str, Any] = {"phases": phases}
    least = "at least " if counted.uncounted else ""
    if total < counted.macs or (total > counted.macs and not least):
        reason = f"the formula gives {total} MACs, torch's counter {least}{counted.macs}; they must agree"
        return _plain(cell, name, total, details=details, status="failed", reason=reason)
    if least:
        details["unconfirmed"] = list(counted.uncounted)
    return _plain(cell, name, total, details=details)


def _failed(cell: Cell, name: str, error: Exception, **fields: Any) -> Measurement:
    prefix = "" if isinstance(error, AttnbenchError) else f"{type(error).__name__}: "
    reason = f"{prefix}{error}".splitlines()[0]
    return _plain(cell, name, None, status="failed", reason=reason, **fields)


def _plain(cell: Cell, name: str, value: int | None, **fields: Any) -> Measurement:
    return Measurement.of(cell, name, value, "MACs", **fields)
