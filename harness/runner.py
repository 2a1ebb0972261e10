"""From a request to records: plan the cells, skip what is measured, measure the rest, write each down."""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import torch

from attnbench import store
from attnbench.errors import AttnbenchError
from attnbench.harness import accuracy, environment, macs, memory, parameters, throughput
from attnbench.harness.backbone import Backbone, create_model, executed_impl
from attnbench.harness.setting import Setting, make_batch, make_step
from attnbench.harness.train import Recipe
from attnbench.layouts import get_layout
from attnbench.record import Cell, Measurement
from attnbench.registry import get

ACCURACY_LAYOUT = "swin_pico"


@dataclass(frozen=True)
class Preset:
    """How thoroughly to measure. ``budget_s`` is the time for one group of interleaved candidates."""

    name: str
    effort: throughput.Effort
    recipe: Recipe


PRESETS = {
    "quick": Preset("quick", throughput.Effort(1, 3, 15, 12.0), Recipe(epochs=5)),
    "full": Preset("full", throughput.Effort(5, 15, 200, 180.0), Recipe(epochs=40)),
}


@dataclass(frozen=True)
class Request:
    """What ``attnbench run`` was asked for; see its help for the meaning of each field."""

    mechanisms: tuple[str, ...]
    metrics: tuple[str, ...]
    layout: str
    device: torch.device
    precisions: tuple[str, ...]
    modes: tuple[str, ...]
    batch_size: int
    resolution: int
    impl: str
    options: dict[str, Any]
    seed: int
    preset: Preset
    out: Path
    force: bool = False


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


def plan(request: Request) -> Iterator[Cell]:
    """The cells of a request, in the order in which they are measured."""
    machine = environment.machine(request.device)
    for metric in request.metrics:
        for mechanism in request.mechanisms:
            base: dict[str, Any] = {
                "mechanism": mechanism,
                "layout": request.layout,
                "metric": metric,
                "resolution": request.resolution,
                "impl": request.impl,
                "options": request.options,
                "source": get(mechanism).digest(),
            }
            if metric in ("params", "macs"):
                # the same on every machine: neither device nor versions are part of the key
                yield Cell(**base, device="meta")
                continue
            base |= {
                "seed": request.seed,
                "device": str(request.device),
                "machine": machine,
                "torch": torch.__version__,
            }
            if metric == "accuracy":
                base |= {"layout": ACCURACY_LAYOUT, "resolution": get_layout(ACCURACY_LAYOUT).img_size}
                base |= {"preset": request.preset.name, "batch_size": request.preset.recipe.batch_size}
                yield Cell(**base, mode="train")
                continue
            if metric == "throughput":
                base["preset"] = request.preset.name
            for mode in request.modes:
                for precision in request.precisions:
                    yield Cell(**base, mode=mode, precision=precision, batch_size=request.batch_size)


def usable(
    mechanisms: Iterable[str],
    impl: str,
    options: dict[str, Any],
    *,
    skip: bool,
    say: Callable[[str], None],
) -> Iterator[str]:
    """Those of the mechanisms that import and can be built so, known before the first hour.

    Args:
        mechanisms: names.
        impl: implementation asked for.
        options: of the mechanisms.
        skip: pass over one that cannot be used and ``say`` why; otherwise raise.

    Raises:
        AttnbenchError: a file fails to import, an option is wrong, or the implementation cannot run here.
    """
    for name in mechanisms:
        try:
            with torch.device("meta"):
                create_model("swin_pico", name, impl=impl, **options)
        except AttnbenchError as error:
            if not skip:
                raise
            say(f"{name} is left out: {error}")
        else:
            yield name


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
        if not chosen:
            continue
        if metric == "throughput":
            for group in _groups(chosen):
                _throughput(group, request, recorder, progress)
        else:
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
    progress.phase(title, len(cells))
    for cell in cells:
        try:
            found = measure(cell, request)
        except Exception as error:
            recorder.fail(cell, error)
        else:
            recorder.write(cell, found)
        progress.step(str(cell))


def _model(cell: Cell, impl: str | None = None) -> Backbone:
    torch.manual_seed(cell.seed)
    return create_model(cell.layout, cell.mechanism, impl=impl or cell.impl, **cell.options)


def _params(cell: Cell, request: Request) -> list[Measurement]:
    with torch.device("meta"):
        model = _model(cell, "eager")
    return [Measurement.of(cell, "parameters", parameters.measure(model), "parameters")]


def _macs(cell: Cell, request: Request) -> list[Measurement]:
    """Formula and counter, on the eager implementation: the definition, free of what others issue on top."""
    with torch.device("meta"):
        model = _model(cell, "eager").eval()
        image = torch.empty(1, model.layout.in_chans, cell.resolution, cell.resolution)
    counted = macs.count(model, image)
    found = [Measurement.of(cell, "macs_counted", counted, "MACs", implementation="eager")]
    try:
        phases = model.macs(cell.resolution, cell.resolution)
    except AttnbenchError as error:
        return [*found, Measurement.of(cell, "macs", None, "MACs", status="failed", reason=str(error))]
    total = sum(phases.values())
    problem: dict[str, Any] = {}
    if total != counted:
        reason = f"the formula gives {total} MACs, torch's counter {counted}; they must agree"
        problem = {"status": "failed", "reason": reason}
    return [*found, Measurement.of(cell, "macs", total, "MACs", details={"phases": phases}, **problem)]


def _memory(cell: Cell, request: Request) -> list[Measurement]:
    model = _model(cell)
    setting = _setting(cell, request)
    step = make_step(model, model.layout, setting)
    inputs = sum(t.nbytes for t in make_batch(model.layout, setting))
    peak, method = memory.measure(step, model, request.device, inputs)
    return [
        Measurement.of(
            cell,
            "peak_memory",
            peak,
            "bytes",
            implementation=executed_impl(model),
            details={"method": method},
        )
    ]


def _accuracy(cell: Cell, request: Request) -> list[Measurement]:
    model = _model(cell)
    percent, details = accuracy.measure(
        model, cell.resolution, request.preset.recipe, request.device, cell.seed
    )
    return [Measurement.of(cell, "top1", percent, "%", implementation=executed_impl(model), details=details)]


_MEASURES: dict[str, tuple[str, Callable[[Cell, Request], list[Measurement]]]] = {
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


def _throughput(group: list[Cell], request: Request, recorder: _Recorder, progress: Progress) -> None:
    """Measure one group; its blocks are kept in a journal, so that a killed run goes on where it was."""
    by_key = {cell.key(): cell for cell in group}
    journal = request.out / "blocks" / recorder.path.name
    tag, done = _journalled(group, request, journal, progress)
    clock, effort = throughput.device_clock(request.device), request.preset.effort
    progress.phase(f"throughput, {group[0].mode} {group[0].precision}", len(group) + effort.max_blocks)
    steps: dict[str, throughput.Step] = {}
    repeats: dict[str, int] = {}
    models: dict[str, Backbone] = {}
    for key, cell in by_key.items():
        try:
            model = _model(cell)
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
