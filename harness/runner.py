"""From cells to records: skip what is measured, measure the rest, write each down."""

import hashlib
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
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
from attnbench.harness.timing import throughput
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
            kept = _Kept(most=len(request.mechanisms))
            for group in _groups(chosen):
                _throughput(group, request, kept, recorder, progress)
        elif chosen:
            _one_by_one(metric, chosen, request, recorder, progress)
    return summary


@dataclass
class _Recorder:
    """Writes the records of a cell, with the environment, in one piece."""

    request: Request
    path: Path
    summary: Summary

    def write(self, cell: Cell, measurements: Iterable[Measurement]) -> None:
        facts = environment.describe(self.request.device)
        done = [m.model_copy(update={"environment": facts}) for m in measurements]
        store.append(self.path, done)
        self.summary.measured += 1

    def fail(self, cell: Cell, error: BaseException) -> None:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        memory_ran_out = isinstance(error, (torch.OutOfMemoryError, MemoryError))
        memory_ran_out |= "can't allocate memory" in str(error)  # torch on a CPU
        status = "out_of_memory" if memory_ran_out else "failed"
        self.write(cell, [Measurement.of(cell, cell.metric, None, "", status=status, reason=reason)])
        self.summary.failed.append(f"{cell}: {reason}")


def _one_by_one(
    metric: str, cells: list[Cell], request: Request, recorder: _Recorder, progress: Progress
) -> None:
    title, measure = _MEASURES[metric]
    kept = _Kept(most=1)
    progress.phase(title, len(cells))
    for cell in cells:
        try:
            found = measure(cell, request, kept)
        except Exception as error:
            recorder.fail(cell, error)
        else:
            recorder.write(cell, found)
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
            implementation=executed_impl(model),
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


def _setting(cell: Cell, request: Request) -> Setting:
    return Setting(request.device, cell.mode, cell.precision, cell.batch_size, cell.resolution, cell.seed)


def _groups(cells: list[Cell]) -> list[list[Cell]]:
    """Cells that are interleaved with one another: those of one mode and precision."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.mode, cell.precision), []).append(cell)
    return list(groups.values())


def _throughput(
    group: list[Cell], request: Request, kept: _Kept, recorder: _Recorder, progress: Progress
) -> None:
    """Measure one group; its blocks are kept in a journal, so that a killed run goes on where it was."""
    by_key = {cell.key(): cell for cell in group}
    journal = request.out / "blocks" / recorder.path.name
    tag, done = _journalled(group, request, journal, progress)
    clock, effort = throughput.device_clock(request.device), request.preset.effort
    progress.phase(f"throughput, {group[0].mode} {group[0].precision}", len(group) + effort.max_blocks)
    steps: dict[str, throughput.Step] = {}
    repeats: dict[str, int] = {}
    models: dict[str, Model] = {}
    for key, cell in by_key.items():
        try:
            model = kept.get(cell)
            step = make_step(model, model.layout, _setting(cell, request))
            repeats[key] = throughput.warm_up(step, clock, effort.warmup)
        except Exception as error:
            recorder.fail(cell, error)
        else:
            steps[key], models[key] = step, model
        progress.step(f"{cell}: warm-up")
    if not steps:
        return
    began = time.monotonic()

    def keep(block: dict[str, float]) -> None:
        store.append(journal, [throughput.Block(group=tag, seconds=block)])
        spent = min(1.0, (time.monotonic() - began) / effort.budget_s)
        progress.at_least(len(group) + round(spent * effort.max_blocks), f"block of {len(block)}")

    complete = [block for block in done if steps.keys() <= block.keys()]
    blocks = throughput.measure_blocks(steps, repeats, clock, effort, done=complete, on_block=keep)
    names = {key: by_key[key].mechanism for key in models}
    for key, model in models.items():
        seconds = [block[key] for block in blocks]
        value, samples, spread = throughput.images_per_s(seconds, by_key[key].batch_size)
        others = sorted(name for other, name in names.items() if other != key)
        details = {"blocks": len(blocks), "steps_per_sample": repeats[key], "interleaved_with": others}
        measured = Measurement.of(
            by_key[key],
            "throughput",
            value,
            "images/s",
            samples=samples,
            spread=spread,
            details=details,
            implementation=executed_impl(model),
        )
        recorder.write(by_key[key], [measured])


def _journalled(
    group: list[Cell], request: Request, journal: Path, progress: Progress
) -> tuple[str, list[dict[str, float]]]:
    """Tag of a group of cells, and the blocks that an interrupted run of it has left."""
    identity = sorted(cell.key() for cell in group)
    if request.force:
        identity.append(datetime.now(UTC).isoformat())  # begin anew, beside whatever was measured before
    tag = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
    if not journal.exists():
        return tag, []
    blocks = store.read_lines(journal, throughput.Block, progress.say)
    return tag, [block.seconds for block in blocks if block.group == tag]
