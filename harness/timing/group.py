"""One group of candidates, all alive, measured together: from cells to records.

A group is the cells of one mode, precision and regime, and the baseline that their ratios are taken to.
Its blocks are kept in a journal, so that a killed run goes on where it was; its records are written
together at the end, since none is complete before the others are.
"""

import hashlib
import json
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from attnbench import store
from attnbench.harness.timing import outcomes, plausible
from attnbench.harness.timing.blocks import Block, Blocks, Effort, measure_blocks
from attnbench.harness.timing.clock import ClockError, Sample, fault
from attnbench.harness.timing.replay import Replay
from attnbench.harness.timing.session import Candidate, Prepared
from attnbench.harness.timing.warmup import Cap
from attnbench.progress import Progress
from attnbench.record import Cell, Measurement

Open = Callable[[Cell], Candidate]
"""Makes the candidate of a cell, in this process or another."""
Outcome = tuple[Cell, list[Measurement] | Exception]
_REPLAYS = 5
_JOURNAL_S = 1.0


@dataclass
class Group:
    """What is measured together.

    Args:
        cells: of one mode, precision and regime; the baseline's among them if there is one.
        baseline: mechanism of the baseline's cell; its name need not be among the cells.
        effort: how long.
        journal: file that blocks are kept in.
        force: begin anew, whatever the journal holds.
        renew: ends the processes of the candidates, so that those opened next live in new ones.
    """

    cells: list[Cell]
    baseline: str
    effort: Effort
    journal: Path
    force: bool = False
    renew: Callable[[], None] = lambda: None
    ready: dict[str, Prepared] = field(default_factory=dict, init=False)
    alive: dict[str, Candidate] = field(default_factory=dict, init=False)
    failed: dict[str, Exception] = field(default_factory=dict, init=False)

    @property
    def by_key(self) -> dict[str, Cell]:
        """The cells by their keys."""
        return {cell.key(): cell for cell in self.cells}

    @property
    def baseline_key(self) -> str | None:
        """Key of the baseline's cell, if it is alive."""
        keys = (key for key, cell in self.by_key.items() if cell.mechanism == self.baseline)
        return next((key for key in keys if key in self.alive), None)

    def tag(self) -> str:
        """Identifies the group in the journal and in the records."""
        identity = sorted(self.by_key)
        if self.force:
            identity.append(datetime.now(UTC).isoformat())
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]


def groups(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Cells that are interleaved with one another: those of one mode, precision and regime."""
    found: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in cells:
        found.setdefault((cell.mode, cell.precision, cell.regime), []).append(cell)
    return list(found.values())


def measure(group: Group, open_candidate: Open, progress: Progress) -> list[Outcome]:
    """Measure one group, in as many processes of each candidate, one after another, as its effort says.

    Returns:
        For each cell its measurements, or what went wrong. The cell of a candidate that fails, at whatever
        point, is lost; the others go on.
    """
    first, effort = group.cells[0], group.effort
    title = " ".join(filter(None, ("throughput,", first.mode, first.precision, first.regime)))
    progress.phase(title, effort.processes * len(group.cells) + effort.max_blocks)
    tag = group.tag()
    blocks = _from_journal(group, tag, progress)
    numbers = _processes(blocks, effort)
    for number, order in zip(numbers, _orders(list(group.by_key.items())), strict=False):
        _make(group, order, open_candidate, progress)
        if number == numbers[0]:  # blocks that lack a candidate which is here now cannot be paired
            blocks.taken = [block for block in blocks.taken if group.alive.keys() <= block.seconds.keys()]
        earlier = blocks.taken + blocks.rejected if effort.processes == 1 else []
        found = _blocks(group, tag, progress, number, earlier)
        if effort.processes == 1:
            blocks = found  # the earlier ones among them
        else:
            blocks.add(found)
        for key in found.failed:
            group.failed[key] = found.failed[key]
            group.alive.pop(key).close()
        if number != numbers[-1]:
            for candidate in group.alive.values():
                candidate.close()
            group.alive.clear()
            group.renew()
    _verify(group, blocks)
    context = outcomes.Context(tag, group.by_key, group.ready, blocks, group.baseline_key, effort)
    outcome: list[Outcome] = [(group.by_key[key], error) for key, error in group.failed.items()]
    for key, cell in group.by_key.items():
        if key in group.alive:
            outcome.append((cell, [outcomes.measurement(context, key, _replay(group, key))]))
            group.alive[key].close()
    return outcome


def _orders(cells: list[tuple[str, Cell]]) -> Iterator[list[tuple[str, Cell]]]:
    """Orders in which the candidates are made: at random, then the same reversed, and so on.

    Who is made first gets other memory than who is made last, and may be slower for it by one or two
    percent in every process (docs/measuring.md). In turn first and last, that cancels in the mean and stands
    in the interval.
    """
    while True:
        order = random.sample(cells, len(cells))
        yield order
        yield order[::-1]


def _make(group: Group, order: list[tuple[str, Cell]], open_candidate: Open, progress: Progress) -> None:
    """Make every candidate that has not failed yet, and warm it up."""
    for key, cell in order:
        if key in group.failed:
            continue
        try:
            group.alive[key] = candidate = open_candidate(cell)
            group.ready[key] = candidate.prepare(cell, Cap(group.effort.warmup_s))
        except Exception as error:
            group.failed[key] = error
            if key in group.alive:
                group.alive.pop(key).close()
        progress.step(f"{cell}: warm-up")


def _processes(earlier: Blocks, effort: Effort) -> list[int]:
    """Numbers of the processes still to be started; those that an interrupted run began are gone."""
    if effort.processes == 1:
        return [0]
    begun = set(earlier.processes)
    first = max(begun, default=-1) + 1
    return list(range(first, first + max(1, effort.processes - len(begun))))


def _blocks(group: Group, tag: str, progress: Progress, process: int, earlier: list[Block]) -> Blocks:
    """The blocks of one process of each candidate."""

    def sampler(key: str) -> Callable[[], Sample]:
        return lambda: group.alive[key].sample(group.ready[key].repeats)

    effort, spent, made = group.effort.share(), 0.0, len(group.cells)
    journal = _Journal(group.journal)

    def keep(block: Block) -> None:
        nonlocal spent
        journal.keep(block)
        spent += sum(block.host[key] * group.ready[key].repeats for key in block.host)
        share = min(1.0, spent / max(effort.budget_s, 1e-9))
        done = (process + 1) * made + round((process + share) * effort.max_blocks)
        progress.at_least(done, f"block of {len(block.seconds)}")

    try:
        return measure_blocks(
            tag,
            {key: sampler(key) for key in group.alive},
            {key: group.ready[key].repeats for key in group.alive},
            effort,
            baseline=group.baseline_key,
            done=earlier,
            on_block=keep,
            process=process,
        )
    finally:
        journal.flush()


class _Journal:
    """Writes blocks down about once a second: syncing a disk may take longer than a block."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting: list[Block] = []
        self._written = time.monotonic()

    def keep(self, block: Block) -> None:
        self._waiting.append(block)
        if time.monotonic() - self._written >= _JOURNAL_S:
            self.flush()

    def flush(self) -> None:
        store.append(self._path, self._waiting)
        self._waiting.clear()
        self._written = time.monotonic()


def _from_journal(group: Group, tag: str, progress: Progress) -> Blocks:
    """Blocks that an interrupted run of the same group has left."""
    if not group.journal.exists():
        return Blocks()
    read = store.read_lines(group.journal, Block, progress.say)
    found = [block for block in read if block.group == tag]
    return Blocks([b for b in found if not b.rejected], [b for b in found if b.rejected])


def _verify(group: Group, blocks: Blocks) -> None:
    """Void the rows whose timing was not of the work, or whose rate cannot be."""
    cells = group.by_key
    peak: float | None = None
    for key, candidate in list(group.alive.items()):
        try:
            _check_clock(blocks, key)
            step_s = median(blocks.of(key))
            candidate.verify(step_s)
            if peak is None:
                peak = candidate.peak(cells[key].precision)
            least = candidate.least_macs(cells[key], group.ready[key].batch_size)
            reason = plausible.fault(least, step_s, peak)
            if reason:
                raise plausible.ImplausibleError(reason)
        except Exception as error:
            group.failed[key] = error
            group.alive.pop(key).close()


def _check_clock(blocks: Blocks, key: str) -> None:
    if not blocks.taken:
        raise ClockError("no block counts: the device was throttled in all of them")
    reason = fault([Sample(b.seconds[key], b.host[key]) for b in blocks.taken if key in b.host])
    if reason:
        raise ClockError(reason)


def _replay(group: Group, key: str) -> Replay | None:
    if group.by_key[key].device.partition(":")[0] != "cuda":
        return None
    try:
        return group.alive[key].replay(group.ready[key].repeats, _REPLAYS)
    except Exception as error:  # the candidate was timed all the same
        return Replay(reason=f"{type(error).__name__}: {error}".splitlines()[0])
