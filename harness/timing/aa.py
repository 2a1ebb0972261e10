"""A/A: the same model against itself, again and again; how often is a difference found that is not there?

Each copy is measured in several processes, one after another, so that what differs between processes is in
the interval; in one process (``--in-process``) there is the margin instead.

The blocks are taken, stopped and judged by the code that judges mechanisms. That it seldom alarms in noise
worse than a machine's is held by tests, in made-up worlds.
"""

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from attnbench.harness.timing.blocks import Effort
from attnbench.harness.timing.group import Group, Open, measure
from attnbench.progress import Progress
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
        harness_share: of the time, what was the harness's own.
    """

    ratio: float
    low: float
    high: float
    blocks: int
    verdict: str
    harness_share: float

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

    @property
    def renew(self) -> Callable[[], None]:
        """Ends their processes."""

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
) -> Iterator[Run]:
    """Compare the model of a cell with a second copy of it, both built anew for each run.

    Args:
        cell: what to build.
        candidates: called for each run.
        effort: for each run.
        runs: how many.
        progress: where to report.

    Raises:
        Exception: whatever befell one of the copies.
    """
    copies = [cell.model_copy(update={"preset": copy}) for copy in ("A", "A again")]
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder, candidates() as opened:
            journal = Path(folder) / "blocks.jsonl"
            group = Group(copies, cell.mechanism, effort, journal, renew=opened.renew)
            outcomes = measure(group, opened.open, progress)
        for _, found in outcomes:
            if isinstance(found, Exception):
                raise found
            details = found[0].details
            if details["verdict"] != "baseline":
                low, high, share = (details[key] for key in ("ratio_low", "ratio_high", "harness_share"))
                yield Run(details["ratio"], low, high, details["blocks"], details["verdict"], share)


def rate(runs: Iterable[Run]) -> float:
    """Share of runs that found a difference."""
    found = [run.alarm for run in runs]
    return sum(found) / len(found)
