"""Candidates of known speed in a world whose time is made up, for tests of the timing."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from attnbench.harness.timing.clock import Sample
from attnbench.harness.timing.replay import Replay
from attnbench.harness.timing.session import Prepared
from attnbench.harness.timing.warmup import Cap, WarmUp
from attnbench.record import Cell


@dataclass
class World:
    """A machine: how much slower than nominal it is at each moment, and how noisy.

    ``slowness`` is of time since the start; ``pace`` is what the device's clock shows of a true second.
    """

    slowness: Callable[[float], float] = lambda now: 1.0
    pace: Callable[[float], float] = lambda now: 1.0
    noise: float = 0.0
    now: float = 0.0
    draw: random.Random = field(default_factory=lambda: random.Random(0))

    def work(self, seconds: float) -> Sample:
        """Do what takes so long on the nominal machine."""
        took = seconds * self.slowness(self.now) * math.exp(self.draw.gauss(0, self.noise))
        self.now += took
        return Sample(took * self.pace(self.now), took)


@dataclass
class Fake:
    """A candidate whose steps take a known time; ``fails_at`` is the sample in which it breaks."""

    world: World
    step_s: float = 0.1
    fails_at: int | None = None
    least_macs: int | None = None
    samples: int = 0

    def prepare(self, cell: Cell, cap: Cap) -> Prepared:
        return Prepared("eager", 1, 1, WarmUp(0, 0.0, True), self.least_macs, "none here")

    def sample(self, repeats: int) -> Sample:
        self.samples += 1
        if self.samples == self.fails_at:
            raise RuntimeError("broken by design")
        return self.world.work(self.step_s * repeats)

    def verify(self, step_s: float) -> None:
        return None

    def replay(self, repeats: int, pairs: int) -> Replay:
        return Replay(reason="made up")

    def peak(self, precision: str) -> float:
        return 1e9

    def close(self) -> None:
        return None


def cell(name: str, **fields: object) -> Cell:
    """A throughput cell of a mechanism that need not exist."""
    return Cell(
        mechanism=name, layout="swin_pico", metric="throughput", mode="infer", precision="fp32", resolution=28
    ).model_copy(update=fields)
