"""From cells to records: skip what is measured, measure the rest, write each down."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch

from attnbench import store
from attnbench.harness import environment, memory
from attnbench.harness.counting import costs, parameters
from attnbench.harness.models.backbone import executed_impl
from attnbench.harness.models.build import Model, build
from attnbench.harness.plan import Request, plan
from attnbench.harness.setting import Setting, make_batch, make_step
from attnbench.harness.timing.group import Group, groups, measure
from attnbench.harness.timing.session import Session, Sessions
from attnbench.harness.training import accuracy
from attnbench.record import Cell, Measurement


class Progress(Protocol):
    """Where a run reports to; see :mod:`attnbench.progress`."""

    def phase(self, title: str, total: int) -> None:
        """A phase of ``total`` equal steps begins."""

    def step(self, what: str) -> None:
        """One step of the phase is done."""

    def at_least(self, done: int, what: str) -> None:
        """One more, or ``done`` steps if that is more: time, not work, may end the phase."""

    def say(self, line: str) -> None:
        """A line for the user."""


@dataclass
class Summary:
    """What a run did: cells that were measured, that were there already, and that failed."""

    measured: int = 0
    known: int = 0
    failed: list[str] = field(default_factory=list)
    path: Path = Path()


def run(request: Request, progress: Progress) -> Summary:
    """Measure every cell of a request that has no record yet.

    A cell that fails becomes a record with its reason, and the run goes on.

    Raises:
        AttnbenchError: the output folder cannot be written.
    """
    environment.pin_allocator()
    request.pins.apply()
    machine = environment.machine(request.device)
    records = request.out / "records" / f"{machine}.jsonl"
    store.check_writable(records.parent)
    cells = list(plan(request))
    known = set()
    if not request.force:
        known = {m.key for m in store.read(records.parent, progress.say)}
    todo = [cell for cell in cells if cell.key() not in known]
    summary = Summary(known=len(cells) - len(todo), path=records)
    recorder = _Recorder(request, records, summary)
    for metric in request.metrics:
        chosen = [cell for cell in todo if cell.metric == metric]
        if metric == "throughput":
            _together([cell for cell in cells if cell.metric == metric], chosen, recorder, progress)
        elif chosen:
            _one_by_one(metric, chosen, request, recorder, progress)
    return summary


@dataclass
class _Recorder:
    """Writes the records of a cell, with the environment, in one piece."""

    request: Request
    path: Path
    summary: Summary

    def write(self, *outcomes: tuple[Cell, Iterable[Measurement] | Exception]) -> None:
        """Write what was measured of one or more cells, or why it was not, all or nothing."""
        facts = environment.describe(self.request.device)
        lines: list[Measurement] = []
        failed: list[str] = []
        for cell, found in outcomes:
            if isinstance(found, Exception):
                failure = self._failure(cell, found)
                failed.append(f"{cell}: {failure.reason}")
                found = [failure]
            lines += [m.model_copy(update={"environment": facts}) for m in found]
        store.append(self.path, lines)
        self.summary.measured += len(outcomes)
        self.summary.failed += failed

    def _failure(self, cell: Cell, error: Exception) -> Measurement:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        memory_ran_out = isinstance(error, (torch.OutOfMemoryError, MemoryError))
        memory_ran_out |= "can't allocate memory" in str(error)  # torch on a CPU
        status = "out_of_memory" if memory_ran_out else "failed"
        return Measurement.of(cell, cell.metric, None, "", status=status, reason=reason)


def _one_by_one(
    metric: str, cells: list[Cell], request: Request, recorder: _Recorder, progress: Progress
) -> None:
    title, measure_one = _MEASURES[metric]
    kept = _Kept(most=1)
    progress.phase(title, len(cells))
    for cell in cells:
        try:
            found = measure_one(cell, request, kept)
        except Exception as error:
            recorder.write((cell, error))
        else:
            recorder.write((cell, found))
        progress.step(str(cell))


@dataclass
class _Kept:
    """Models built before, for cells that differ in mode and precision only: building one is slow."""

    most: int
    models: dict[str, Model] = field(default_factory=dict)

    def get(self, cell: Cell) -> Model:
        """The model of a cell, without gradients of an earlier use."""
        same = cell.model_copy(update={"mode": "", "precision": ""}).key()
        if same not in self.models:
            while len(self.models) >= self.most:
                self.models.pop(next(iter(self.models)))
            self.models[same] = build(cell)
        self.models[same].zero_grad(set_to_none=True)
        return self.models[same]


def _params(cell: Cell, request: Request, kept: _Kept) -> list[Measurement]:
    with torch.device("meta"):
        model = build(cell, "eager")
    return [Measurement.of(cell, "parameters", parameters.measure(model), "parameters")]


def _macs(cell: Cell, request: Request, kept: _Kept) -> list[Measurement]:
    return costs.measure(cell, lambda impl: build(cell, impl))


def _memory(cell: Cell, request: Request, kept: _Kept) -> list[Measurement]:
    model = kept.get(cell)
    setting = _setting(cell, request)
    step = make_step(model, model.layout, setting)
    inputs = sum(t.nbytes for t in make_batch(model.layout, setting))
    found = memory.measure(step, model, request.device, inputs)
    return [
        Measurement.of(
            cell,
            "peak_memory",
            found.peak,
            "bytes",
            implementation=executed_impl(model, setting),
            details=found.details(),
        )
    ]


def _accuracy(cell: Cell, request: Request, kept: _Kept) -> list[Measurement]:
    model = build(cell)
    percent, details = accuracy.measure(
        model, cell.resolution, request.preset.recipe, request.device, cell.seed
    )
    return [Measurement.of(cell, "top1", percent, "%", implementation=executed_impl(model), details=details)]


_MEASURES: dict[str, tuple[str, Callable[[Cell, Request, _Kept], list[Measurement]]]] = {
    "params": ("parameters", _params),
    "macs": ("MACs", _macs),
    "memory": ("peak memory", _memory),
    "accuracy": ("top-1 accuracy", _accuracy),
}


def _together(planned: list[Cell], todo: list[Cell], recorder: _Recorder, progress: Progress) -> None:
    """Measure throughput by the group; a group with a cell to measure has its control, known or not."""
    request = recorder.request
    journal = request.out / "blocks" / recorder.path.name
    sessions = Sessions(lambda cell: Session(cell, request.device))
    wanted = {cell.key() for cell in todo if cell.mechanism in request.mechanisms}
    for members in groups(planned):
        if any(cell.key() in wanted for cell in members):
            chosen = [c for c in members if c.key() in wanted or c.mechanism == request.control]
            group = Group(chosen, request.control, request.preset.effort, journal, request.force)
            recorder.write(*measure(group, sessions.open, progress))


def _setting(cell: Cell, request: Request) -> Setting:
    return Setting(request.device, cell.mode, cell.precision, cell.batch_size, cell.resolution, cell.seed)
