"""Candidates of known speed in a world whose time is made up, for tests of the timing."""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from attnbench import statistics
from attnbench.harness.timing.blocks import Effort, measure_blocks
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
    least: int | None = None
    samples: int = 0

    def prepare(self, cell: Cell, cap: Cap) -> Prepared:
        return Prepared("eager", 1, 1, WarmUp(0, 0.0, True), "none here")

    def sample(self, repeats: int) -> Sample:
        self.samples += 1
        if self.samples == self.fails_at:
            raise RuntimeError("broken by design")
        return self.world.work(self.step_s * repeats)

    def verify(self, step_s: float) -> None:
        return None

    def least_macs(self, cell: Cell, batch: int) -> int | None:
        return self.least

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


MadeUp = Callable[[random.Random], Callable[[], float]]
"""Makes a machine: seconds that the next sample takes, of work that takes one second."""


def simulated(
    world: MadeUp, effort: Effort, runs: int, seed: int = 0, ratio: float = 1.0
) -> Iterator[statistics.RatioInterval]:
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
        yield statistics.ratio_interval(blocks.of("other"), blocks.of("baseline"))


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


WORLDS: dict[str, MadeUp] = {world.__name__: world for world in (normal, heavy, correlated, drifting, loaded)}
