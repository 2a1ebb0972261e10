"""Time two modules that compute the same in short turns, and give the median of the ratios.

On a machine with other work on it a time says little, but both of a pair that follow each other at once meet
the same conditions. So each pair gives one ratio, and the interval is that of the median of the ratios
(order statistics, 95 %). With one thread on a CPU, time is that of the process, without the others'.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

import torch
from scipy.stats import binom
from torch import Tensor

from attnbench.errors import AttnbenchError, ImplementationError
from attnbench.harness.versus.references import Pair, sites

CASES = tuple((mode, precision) for mode in ("infer", "train") for precision in ("fp32", "amp"))
"""Mode and precision; amp is autocast to bfloat16."""
_LEAST_S = 0.02
"""A turn lasts so long at least; short modules run several times in it."""


@dataclass
class Ratios:
    """Official / ours, turn by turn: above 1 ours is faster."""

    stages: list[list[float]] = field(default_factory=list)
    """By stage."""
    whole: list[float] = field(default_factory=list)
    """Of the sums over the stages."""
    reason: str = ""

    def interval(self) -> tuple[float, float]:
        """Ends of the 95 % interval of the median."""
        n, ordered = len(self.whole), sorted(self.whole)
        below = max(int(binom.ppf(0.025, n, 0.5)) - 1, 0)
        return ordered[below], ordered[n - 1 - below]

    def __str__(self) -> str:
        if self.reason:
            return f"— ({self.reason})"
        low, high = self.interval()
        return f"{median(self.whole):.2f} [{low:.2f}, {high:.2f}]"

    def medians(self) -> list[float]:
        """Of each stage."""
        return [median(stage) for stage in self.stages]

    def slowest_stage(self) -> str:
        """The least of the stages' medians, and which stage that is."""
        medians = self.medians()
        return f"{min(medians):.2f} (stage {medians.index(min(medians)) + 1})" if medians else "—"


def race(
    build: Callable[..., Pair],
    mode: str,
    precision: str,
    *,
    device: str = "cpu",
    batch: int = 4,
    pairs: int = 15,
    seed: int = 0,
) -> Ratios:
    """Compare the two modules of each place of the Swin-T layout.

    Args:
        build: makes the pair of a place.
        mode, precision: ``infer`` or ``train`` (forward and backward), ``fp32`` or ``amp``.
        device: where.
        batch: images.
        pairs: turns, each of both in random order.
        seed: of weights, images and order.

    Raises:
        AttnbenchError: the two do not compute the same.
    """
    torch.manual_seed(seed)
    turns = random.Random(seed)
    steps = []
    try:
        for site in sites():
            pair = build(site)
            pair.official.to(device).train(mode == "train")
            pair.own.to(device).train(mode == "train")
            x = torch.randn(batch, site.height, site.width, site.dim, device=device)
            _same(pair, x)
            both = [_step(run, x, mode, precision) for run in (pair.run_official, pair.own)]
            steps.append((site.stage, both, _repeats(both)))
    except (ImplementationError, NotImplementedError) as error:
        return Ratios(reason=str(error).splitlines()[0])
    found = Ratios(stages=[[] for _ in range(1 + max(stage for stage, _, _ in steps))])
    for _ in range(pairs):
        times = [[0.0, 0.0] for _ in found.stages]
        for stage, both, repeats in steps:
            for which in turns.sample((0, 1), 2):
                times[stage][which] += _time(both[which], repeats, device)
        for ratios, (official, own) in zip(found.stages, times, strict=True):
            ratios.append(official / own)
        found.whole.append(sum(t[0] for t in times) / sum(t[1] for t in times))
    return found


def _same(pair: Pair, x: Tensor) -> None:
    with torch.no_grad():
        official, own = pair.run_official(x[:1]), pair.own(x[:1])
    error = float((official - own).abs().max() / official.abs().max())
    if not error < 1e-4:
        raise AttnbenchError(f"ours differs from the official module by {error:.1e}: their times say nothing")


def _step(run: Callable[[Tensor], Tensor], x: Tensor, mode: str, precision: str) -> Callable[[], None]:
    """One step without arguments."""
    train = mode == "train"
    x = x.clone().requires_grad_(train)

    def step() -> None:
        amp = torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "amp")
        with torch.set_grad_enabled(train), amp:
            y = run(x)
        if train:
            y.float().sum().backward()

    step()
    return step


def _repeats(both: list[Callable[[], None]]) -> int:
    """Runs in a turn, so that the quicker one is not over at once."""
    start = time.perf_counter()
    for step in both:
        step()
    return max(1, round(_LEAST_S / (time.perf_counter() - start)))


def _time(step: Callable[[], None], repeats: int, device: str) -> float:
    cuda = device.startswith("cuda")
    clock = time.process_time if not cuda and torch.get_num_threads() == 1 else time.perf_counter
    if cuda:
        torch.cuda.synchronize()
    start = clock()
    for _ in range(repeats):
        step()
    if cuda:
        torch.cuda.synchronize()
    return clock() - start
