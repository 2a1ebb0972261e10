"""One cell in, its measurements out: every metric but throughput, which is measured by the group."""

from dataclasses import dataclass, field

import torch

from attnbench.harness import environment, memory
from attnbench.harness.counting import costs, parameters
from attnbench.harness.models.backbone import executed_impl
from attnbench.harness.models.build import Model, build
from attnbench.harness.run.plan import Request
from attnbench.harness.setting import Setting, make_batch, make_step
from attnbench.harness.training import accuracy
from attnbench.harness.workers.isolation import InProcess, Workers
from attnbench.record import Cell, Measurement

TITLES = {"params": "parameters", "macs": "MACs", "memory": "peak memory", "accuracy": "top-1 accuracy"}
"""Of the phases of a run."""


def place(request: Request) -> InProcess | Workers:
    """Where cells are measured: the method ``measure`` of what is there takes a cell."""
    if request.in_process:
        return InProcess(Bench, request)
    return Workers(Bench, request, time_limit_s=request.limit_s, room=_room)


def _room(cell: Cell) -> str:
    """Cells of one name share a process, until one of them fails.

    Counts are of meta tensors and leave nothing behind; the modes and precisions of one model share it as
    they share its weights; all else is alone.
    """
    if cell.metric in ("params", "macs"):
        return "counts"
    return Kept.name(cell)


class Bench:
    """Measures cells of a request, in the process it is in."""

    def __init__(self, request: Request) -> None:
        request.flags.apply()
        self.request = request
        self.kept = Kept(most=1)

    def measure(self, cell: Cell) -> list[Measurement]:
        """The measurements of a cell, with the state of the process."""
        measures = {"params": _params, "macs": _macs, "memory": self._memory, "accuracy": self._accuracy}
        found = measures[cell.metric](cell)
        facts = environment.state() | environment.isolation(self.request.in_process)
        return [m.model_copy(update={"environment": facts}) for m in found]

    def _memory(self, cell: Cell) -> list[Measurement]:
        model = self.kept.get(cell)
        setting = setting_of(cell, self.request)
        step = make_step(model, model.layout, setting)
        inputs = sum(t.nbytes for t in make_batch(model.layout, setting))
        found = memory.measure(step, model, self.request.device, inputs)
        ran, details = executed_impl(model, setting), found.details()
        return [Measurement.of(cell, "peak_memory", found.peak, "bytes", implementation=ran, details=details)]

    def _accuracy(self, cell: Cell) -> list[Measurement]:
        model = build(cell)
        percent, details = accuracy.measure(
            model, cell.resolution, self.request.preset.recipe, self.request.device, cell.seed
        )
        ran = executed_impl(model)
        return [Measurement.of(cell, "top1", percent, "%", implementation=ran, details=details)]


def _params(cell: Cell) -> list[Measurement]:
    with torch.device("meta"):
        model = build(cell, "eager")
    return [Measurement.of(cell, "parameters", parameters.measure(model), "parameters")]


def _macs(cell: Cell) -> list[Measurement]:
    return costs.measure(cell, lambda impl: build(cell, impl))


@dataclass
class Kept:
    """Models built before, for cells that differ in mode and precision only: building one is slow."""

    most: int
    models: dict[str, Model] = field(default_factory=dict)

    @staticmethod
    def name(cell: Cell) -> str:
        """What cells with the same model have in common."""
        return cell.model_copy(update={"mode": "", "precision": ""}).key()

    def get(self, cell: Cell) -> Model:
        """The model of a cell, without gradients of an earlier use."""
        same = self.name(cell)
        if same not in self.models:
            while len(self.models) >= self.most:
                self.models.pop(next(iter(self.models)))
            self.models[same] = build(cell)
        self.models[same].zero_grad(set_to_none=True)
        return self.models[same]


def setting_of(cell: Cell, request: Request) -> Setting:
    """The setting of a cell."""
    return Setting(request.device, cell.mode, cell.precision, cell.batch_size, cell.resolution, cell.seed)
