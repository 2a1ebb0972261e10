"""From cells to records: skip what is measured, measure the rest, write each down."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from attnbench import baselines, certificates, metrics, store
from attnbench.harness import environment
from attnbench.harness.run.bench import place
from attnbench.harness.run.candidates import Candidates
from attnbench.harness.run.plan import Request, plan
from attnbench.harness.timing.group import Group, groups
from attnbench.harness.workers.deaths import cause_of_error
from attnbench.progress import Progress
from attnbench.record import Cell, Measurement


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
    request.flags.apply()
    machine = environment.machine(request.device)
    records = request.out / "records" / f"{machine}.jsonl"
    store.check_writable(records.parent)
    with store.only_writer(request.out, machine):
        return _run(request, records, progress)


def _run(request: Request, records: Path, progress: Progress) -> Summary:
    """What :func:`run` does where it is the only one."""
    certificates.look_beside(records)
    cells = list(plan(request))
    known: dict[str, list[Measurement]] = {}
    if not request.force:
        for m in store.read(records.parent, progress.say):
            known.setdefault(m.key, []).append(m)
    todo = [cell for cell in cells if not _records_of(cell, known)]
    summary = Summary(known=len(cells) - len(todo), path=records)
    for cell in cells:
        if whys := {m.reason for m in _records_of(cell, known) if m.value is None and m.status != "ok"}:
            summary.failed.append(f"{cell}: {'; '.join(whys)} (recorded before; --force measures it again)")
    recorder = _Recorder(request, records, summary)
    for metric in request.metrics:
        chosen = [cell for cell in todo if cell.metric == metric]
        if metrics.get(metric).grouped:
            _together([cell for cell in cells if cell.metric == metric], chosen, recorder, progress)
        elif chosen:
            _one_by_one(metric, chosen, request, recorder, progress)
    return summary


def _records_of(cell: Cell, known: dict[str, list[Measurement]]) -> list[Measurement]:
    return [m for key in cell.stored_as() for m in known.get(key, ())]


@dataclass
class _Recorder:
    """Writes the records of cells, with their provenance, in one piece."""

    request: Request
    path: Path
    summary: Summary

    def write(self, *outcomes: tuple[Cell, Iterable[Measurement] | Exception]) -> None:
        """Write what was measured of one or more cells, or why it was not, all or nothing."""
        facts = environment.describe(self.request.device)
        here = environment.state() | environment.isolation(self.request.in_process)
        lines: list[Measurement] = []
        failed: list[str] = []
        for cell, found in outcomes:
            if isinstance(found, Exception):
                cause = cause_of_error(found)
                failed.append(f"{cell}: {cause}")
                found = [
                    Measurement.of(cell, cell.metric, None, "", status=cause.status, reason=cause.reason)
                ]
            certificate = _certificate(cell)
            lines += [
                m.model_copy(
                    update={"environment": facts | (m.environment or here), "certificate": certificate}
                )
                for m in found
            ]
        store.append(self.path, lines)
        self.summary.measured += len(outcomes)
        self.summary.failed += failed


def _certificate(cell: Cell) -> str:
    """Identifier of the certificate of what was measured, which is of these very options."""
    if baselines.is_baseline(cell.mechanism):
        return "none"
    return certificates.identifier(cell.mechanism, cell.source, options=cell.options)


def _one_by_one(
    metric: str, cells: list[Cell], request: Request, recorder: _Recorder, progress: Progress
) -> None:
    progress.phase(metrics.get(metric).title, len(cells))
    with place(request) as bench:
        for cell in cells:
            try:
                found = bench.call("measure", cell)
            except Exception as error:
                recorder.write((cell, error))
            else:
                recorder.write((cell, found))
            progress.step(str(cell))


def _together(planned: list[Cell], todo: list[Cell], recorder: _Recorder, progress: Progress) -> None:
    """Measure a grouped metric; a group with a cell to measure has its baseline, known or not."""
    request = recorder.request
    journal = request.out / "blocks" / recorder.path.name
    wanted = {cell.key() for cell in todo if cell.mechanism in request.mechanisms}
    measure = metrics.get(planned[0].metric).measure
    with Candidates(request) as candidates:
        for members in groups(planned):
            if any(cell.key() in wanted for cell in members):
                chosen = [c for c in members if c.key() in wanted or c.mechanism == request.baseline]
                effort = request.effort(members[0].regime)
                group = Group(
                    chosen, request.baseline, effort, journal, request.force, renew=candidates.renew
                )
                recorder.write(*measure(group, candidates.open, progress))
