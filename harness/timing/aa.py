"""A/A: the same model against itself, again and again; how often is a difference found that is not there?

Really, on this machine, and in made-up worlds whose noise is worse than a machine's. In both the blocks
are taken, stopped and judged by the code that judges mechanisms.
"""

import math
import random
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from attnbench import statistics
from attnbench.harness.timing.blocks import Effort, measure_blocks
from attnbench.harness.timing.clock import Sample
from attnbench.harness.timing.group import Group, Open, Progress, measure
from attnbench.record import Cell

LEVEL = 0.05
"""Share of runs that may find a difference."""


@dataclass(frozen=True)
class Run:
    """One comparison of a model with itself.

    Args:
        ratio, low, high: see :class:`attnbench.statistics.RatioInterval`.
        blocks: that it took.
        verdict: anything but ``cannot tell`` is a false alarm.
        harness_share: of the time, what was the harness's own; None in a made-up world.
    """

    ratio: float
    low: float
    high: float
    blocks: int
    verdict: str
    harness_share: float | None = None

    @property
    def alarm(self) -> bool:
        """Whether a difference was found."""
        return self.verdict != "cannot tell"

    @property
    def missed(self) -> bool:
        """Whether the interval leaves 1 out, margin or not."""
        return not self.low <= 1 <= self.high

    @property
    def half_width(self) -> float:
        """Of the interval, relative."""
        return math.sqrt(self.high / self.low) - 1 if self.low > 0 else math.inf


class Opened(Protocol):
    """What makes candidates while it is entered; see :class:`attnbench.harness.run.candidates.Candidates`."""

    @property
    def open(self) -> Open:
        """Makes the candidate of a cell."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(self, *error: object) -> None:
        """End what was made."""


def real(
    cell: Cell,
    candidates: Callable[[], Opened],
    effort: Effort,
    runs: int,
    progress: Progress,
    margin: float = statistics.MARGIN,
) -> Iterator[Run]:
    """Compare the model of a cell with a second copy of it, both built anew for each run.

    Args:
        cell: what to build.
        candidates: called for each run.
        effort: for each run.
        runs: how many.
        progress: where to report.
        margin: of the verdicts.

    Raises:
        Exception: whatever befell one of the copies.
    """
    copies = [cell.model_copy(update={"preset": copy}) for copy in ("A", "A again")]
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder, candidates() as opened:
            journal = Path(folder) / "blocks.jsonl"
            group = Group(copies, cell.mechanism, effort, journal, margin=margin)
            outcomes = measure(group, opened.open, progress)
        for _, found in outcomes:
            if isinstance(found, Exception):
                raise found
            details = found[0].details
            if details["verdict"] != "baseline":
                low, high, share = (details[key] for key in ("ratio_low", "ratio_high", "harness_share"))
                yield Run(details["ratio"], low, high, details["blocks"], details["verdict"], share)


World = Callable[[random.Random], Callable[[], float]]
"""Makes a machine: seconds that the next sample takes, of work that takes one second."""


def simulated(world: World, effort: Effort, runs: int, seed: int = 0, ratio: float = 1.0) -> Iterator[Run]:
    """Compare two candidates in a made-up world; the first is ``ratio`` times as fast as the baseline."""
    for number in range(runs):
        draw = random.Random(f"{seed} {number}")
        machine = world(draw)
        samplers = {
            "other": lambda machine=machine: _sample(machine() / ratio),
            "baseline": lambda machine=machine: _sample(machine()),
        }
        steps = dict.fromkeys(samplers, 1)
        blocks = measure_blocks("", samplers, steps, effort, baseline="baseline", draw=draw)
        interval = statistics.ratio_interval(blocks.of("other"), blocks.of("baseline"))
        yield Run(
            interval.ratio,
            interval.low,
            interval.high,
            interval.blocks,
            statistics.verdict(interval, statistics.MARGIN_IN_PROCESS),
        )


def _sample(seconds: float) -> Sample:
    return Sample(seconds, seconds)


def normal(draw: random.Random) -> Callable[[], float]:
    """Independent noise of 3 %."""
    return lambda: math.exp(draw.gauss(0, 0.03))


def heavy(draw: random.Random) -> Callable[[], float]:
    """Noise of 1 %, and one sample in ten interrupted for up to many times its length (Pareto)."""
    return lambda: math.exp(draw.gauss(0, 0.01)) * (draw.paretovariate(1.2) if draw.random() < 0.1 else 1.0)


def correlated(draw: random.Random) -> Callable[[], float]:
    """Noise that remembers: each sample's is nine tenths of the one before."""
    state = 0.0

    def machine() -> float:
        nonlocal state
        state = 0.9 * state + draw.gauss(0, 0.03)
        return math.exp(state)

    return machine


def drifting(draw: random.Random) -> Callable[[], float]:
    """A machine that grows 1 % slower with every sample, with noise of 1 %."""
    taken = 0

    def machine() -> float:
        nonlocal taken
        taken += 1
        return math.exp(0.01 * taken + draw.gauss(0, 0.01))

    return machine


def loaded(draw: random.Random) -> Callable[[], float]:
    """A load comes and goes: half as slow again for a while, with noise of 2 %."""
    busy = False

    def machine() -> float:
        nonlocal busy
        busy ^= draw.random() < 0.05
        return (1.5 if busy else 1.0) * math.exp(draw.gauss(0, 0.02))

    return machine


WORLDS: dict[str, World] = {world.__name__: world for world in (normal, heavy, correlated, drifting, loaded)}


def rate(runs: Iterable[Run]) -> float:
    """Share of runs that found a difference."""
    found = [run.alarm for run in runs]
    return sum(found) / len(found)
