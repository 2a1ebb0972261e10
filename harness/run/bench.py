"""One cell in, its measurements out: every metric but those that are measured by the group."""

import contextlib
from dataclasses import dataclass, field

from attnbench import metrics
from attnbench.harness import environment
from attnbench.harness.models.build import Model, build
from attnbench.harness.run.plan import Request
from attnbench.harness.setting import Setting
from attnbench.harness.workers.isolation import InProcess, Workers
from attnbench.record import Cell, Measurement
from attnbench.supervision import time_limit


def place(request: Request) -> InProcess | Workers:
    """Where cells are measured: the method ``measure`` of what is there takes a cell."""
    if request.in_process:
        return InProcess(Bench, request)
    return Workers(Bench, request, time_limit_s=request.limit_s, room=_room)


def _room(cell: Cell) -> str:
    """Cells of one name share a process, until one of them fails; see ``needs`` of a metric."""
    needs = metrics.get(cell.metric).needs
    if needs == "counts":
        return "counts"
    return cell.key() if needs == "alone" else Kept.name(cell)


class Bench:
    """Measures cells of a request, in the process it is in; what a metric's function measures with."""

    def __init__(self, request: Request) -> None:
        request.flags.apply()
        self.request = request
        self._kept = Kept(most=1)

    def measure(self, cell: Cell) -> list[Measurement]:
        """The measurements of a cell, with the state of the process."""
        here = self.request.in_process  # a worker that takes too long is ended by who waits for it
        with time_limit(self.request.limit_s) if here else contextlib.nullcontext():
            found = metrics.get(cell.metric).measure(cell, self)
        facts = environment.state() | environment.isolation(self.request.in_process)
        return [m.model_copy(update={"environment": facts}) for m in found]

    def model(self, cell: Cell) -> Model:
        """The cell's model, without gradients of an earlier use; cells of one model share it."""
        return self._kept.get(cell)

    def setting(self, cell: Cell) -> Setting:
        """Device, mode, precision, batch, resolution and seed of the cell."""
        return Setting(
            self.request.device, cell.mode, cell.precision, cell.batch_size, cell.resolution, cell.seed
        )


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
