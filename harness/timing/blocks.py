"""Blocks: one sample of every candidate, in an order drawn anew; the unit of everything.

Drift of the machine falls on all candidates alike. A block is written down as soon as it is done, resumed
after a kill, and never mixed with blocks of other candidates.
"""

import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from pydantic import BaseModel, ConfigDict, Field

from attnbench import statistics
from attnbench.harness.timing.clock import Sample


class Block(BaseModel):
    """One round: seconds per step of every candidate, by the key of its cell."""

    model_config = ConfigDict(extra="forbid")

    schema_version: int = 2
    group: str
    """Identifies the set of candidates and the conditions; blocks of other groups are not comparable."""
    seconds: dict[str, float]
    """On the device's clock, in the order in which the candidates took their turn."""
    host: dict[str, float] = Field(default_factory=dict)
    """The same steps on the host's clock, waits included."""
    sensors: dict[str, dict[str, int | str | bool]] = Field(default_factory=dict)
    rejected: str = ""
    """Why the block does not count."""
    process: int = 0
    """Blocks of one number were taken in one process of each candidate."""


@dataclass(frozen=True)
class Effort:
    """How long to measure one group.

    Blocks are taken, in each of the processes, until each ratio's interval is within ``half_width`` or the
    budget is spent. What ends it is the width, never whether a difference shows: who stops when one does
    finds one too often.

    Args:
        warmup_s: seconds after which a candidate's warm-up ends though its times still drift.
        min_blocks, max_blocks: bounds on their number, whatever the time.
        budget_s: seconds for the blocks of a group.
        half_width: of the intervals, relative to the ratio, at which they are narrow enough.
        processes: of each candidate, one after another; blocks and budget are shared out among them. Their
            number is fixed beforehand.
    """

    warmup_s: float
    min_blocks: int
    max_blocks: int
    budget_s: float
    half_width: float = 0.005
    processes: int = 1

    def share(self) -> "Effort":
        """The effort for one of the processes."""
        n = self.processes
        blocks = -(-self.min_blocks // n), -(-self.max_blocks // n)
        return replace(
            self, min_blocks=blocks[0], max_blocks=blocks[1], budget_s=self.budget_s / n, processes=1
        )


@dataclass
class Blocks:
    """Blocks that count, those put aside, and the candidates that failed on the way."""

    taken: list[Block] = field(default_factory=list)
    rejected: list[Block] = field(default_factory=list)
    failed: dict[str, Exception] = field(default_factory=dict)
    seconds: float = 0.0
    """Spent on blocks, by the wall, in this process."""
    sampled_s: float = 0.0
    """Of these, inside samples: the rest is the harness's own."""

    def of(self, key: str) -> list[float]:
        """Seconds per step of a candidate, by block."""
        return [block.seconds[key] for block in self.taken]

    @property
    def processes(self) -> list[int]:
        """The process that each block was taken in."""
        return [block.process for block in self.taken]

    def add(self, later: "Blocks") -> None:
        """Take in the blocks of the next process."""
        self.taken += later.taken
        self.rejected += later.rejected
        self.failed |= later.failed
        self.seconds += later.seconds
        self.sampled_s += later.sampled_s


def measure_blocks(
    group: str,
    samplers: Mapping[str, Callable[[], Sample]],
    repeats: Mapping[str, int],
    effort: Effort,
    *,
    baseline: str | None = None,
    done: Iterable[Block] = (),
    on_block: Callable[[Block], None] = lambda block: None,
    draw: random.Random | None = None,
    process: int = 0,
) -> Blocks:
    """Take blocks, in one process of each candidate, until the effort is spent.

    A candidate that fails leaves the group; the block in which it did is dropped, so that all that remain
    have the same blocks. A block in which the device was throttled is put aside.

    Args:
        group: tag of the blocks.
        samplers: take one sample of each candidate, already warmed up.
        repeats: steps per sample of each candidate.
        effort: when to stop.
        baseline: the candidate that the ratios whose width matters are taken to.
        done: blocks of an earlier, interrupted run of the same candidates.
        on_block: called with each new block, e.g. to write it down.
        draw: of the orders.
        process: number that the blocks bear.
    """
    earlier = list(done)
    found = Blocks([b for b in earlier if not b.rejected], [b for b in earlier if b.rejected])
    draw = draw or random.Random(random.random())
    began = time.monotonic()
    alive = dict(samplers)
    check_at = max(effort.min_blocks, 2)
    while alive and _wanted(found, effort, time.monotonic() - began):
        if len(found.taken) >= check_at:
            if _narrow(found, alive, baseline, effort.half_width):
                break
            check_at = int(len(found.taken) * 1.5) + 1  # seldom: each look costs time, and a little coverage
        block = _block(group, alive, repeats, found, draw)
        if block is not None:
            block.process = process
            on_block(block)
            (found.rejected if block.rejected else found.taken).append(block)
        alive = {key: sampler for key, sampler in samplers.items() if key not in found.failed}
    found.seconds = time.monotonic() - began
    return found


def _wanted(found: Blocks, effort: Effort, spent_s: float) -> bool:
    taken, rejected = len(found.taken), len(found.rejected)
    if rejected > 2 * max(taken, effort.min_blocks):
        return False  # a device that is always throttled gives no block
    return taken < effort.min_blocks or (taken < effort.max_blocks and spent_s < effort.budget_s)


def _narrow(found: Blocks, alive: Mapping[str, object], baseline: str | None, half_width: float) -> bool:
    if baseline is None or baseline not in alive or len(alive) < 2:
        return False
    others = (key for key in alive if key != baseline)
    reference = found.of(baseline)
    return all(statistics.ratio_interval(found.of(key), reference).half_width <= half_width for key in others)


def _block(
    group: str,
    alive: Mapping[str, Callable[[], Sample]],
    repeats: Mapping[str, int],
    found: Blocks,
    draw: random.Random,
) -> Block | None:
    """One block; None if a candidate failed in it."""
    order = list(alive)
    draw.shuffle(order)
    samples: dict[str, Sample] = {}
    for key in order:
        try:
            samples[key] = alive[key]()
        except Exception as error:
            found.failed[key] = error
            return None
        found.sampled_s += samples[key].host_s
    readings = {key: s.reading for key, s in samples.items() if s.reading is not None}
    reasons = sorted({reading.throttled for reading in readings.values() if reading.throttled})
    return Block(
        group=group,
        seconds={key: s.device_s / repeats[key] for key, s in samples.items()},
        host={key: s.host_s / repeats[key] for key, s in samples.items()},
        sensors={key: vars(reading) for key, reading in readings.items()},
        rejected=f"throttled: {', '.join(reasons)}" if reasons else "",
    )
