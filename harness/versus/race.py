"""Time two modules that compute the same in short turns, and give the median of the ratios.

On a machine with other work on it a time says little, but both of a pair that follow each other at once meet
the same conditions. So each pair gives one ratio, and the interval is that of the median of the ratios
(order statistics, 95 %). With one thread on a CPU, time is that of the process, without the others'.

Who comes first at a place finds the caches full of another stage, and a heap of other shapes: one module
against its copy was 5 % slower in the first stage for that alone. So an untimed step goes before each turn,
and every second pair takes the orders of the one before it reversed.
"""

import contextlib
import io
import random
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

import torch
from scipy.stats import binom
from torch import Tensor

from attnbench.errors import AttnbenchError, ImplementationError, reason, told
from attnbench.harness.versus.pair import Pair, Reference, sites
from attnbench.registry import Site

CASES = tuple((mode, precision) for mode in ("infer", "train") for precision in ("fp32", "amp"))
"""Mode and precision; amp is autocast to bfloat16."""
_LEAST_S = 0.02
"""A turn lasts so long at least; short modules run several times in it."""


@dataclass
class Ratios:
    """Official / ours, turn by turn: above 1 ours is faster."""

    stages: dict[int, list[float]] = field(default_factory=dict)
    """By stage, from 0."""
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

    def medians(self) -> dict[int, float]:
        """Of each stage."""
        return {stage: median(ratios) for stage, ratios in self.stages.items()}

    def slowest_stage(self) -> str:
        """The least of the stages' medians, and which stage that is."""
        medians = self.medians()
        if not medians:
            return "—"
        slowest = min(medians, key=lambda stage: medians[stage])
        return f"{medians[slowest]:.2f} (stage {slowest + 1})"


def race(
    reference: Reference,
    mode: str,
    precision: str,
    *,
    device: str = "cpu",
    batch: int = 4,
    pairs: int = 15,
    seed: int = 0,
) -> Ratios:
    """Compare the two modules of each place of the Swin-T layout that the official models have.

    Args:
        reference: makes the pairs.
        mode, precision: ``infer`` or ``train`` (forward and backward), ``fp32`` or ``amp``.
        device: where.
        batch: images.
        pairs: turns, each of both in random order.
        seed: of weights, images and order.

    Raises:
        AttnbenchError: the two do not compute the same, or one does not run.
    """
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # what official code warns of and prints is not ours
            return _race(reference, mode, precision, device, batch, pairs, seed)
    except (ImplementationError, NotImplementedError) as error:
        return Ratios(reason=reason(error))
    except AttnbenchError:
        raise
    except (Exception, SystemExit) as error:  # official code is of other versions of torch and timm
        raise AttnbenchError(f"the pair does not run: {told(error)}") from error


def _race(
    reference: Reference, mode: str, precision: str, device: str, batch: int, pairs: int, seed: int
) -> Ratios:
    torch.manual_seed(seed)
    turns = random.Random(seed)
    steps = []
    for site in sites(reference.stages):
        both = _both(reference.build(site), site, mode, precision, device, batch)
        steps.append((site.stage, both, _repeats(both)))
    found = Ratios(stages={stage: [] for stage in reference.stages})
    orders = [[0, 1] for _ in steps]
    for number in range(pairs):
        times = {stage: [0.0, 0.0] for stage in reference.stages}
        orders = [order[::-1] if number % 2 else turns.sample((0, 1), 2) for order in orders]
        for (stage, both, repeats), order in zip(steps, orders, strict=True):
            for which in order:
                times[stage][which] += _time(both[which], repeats, device)
        for stage, (official, own) in times.items():
            found.stages[stage].append(official / own)
        found.whole.append(sum(t[0] for t in times.values()) / sum(t[1] for t in times.values()))
    return found


def _both(
    pair: Pair, site: Site, mode: str, precision: str, device: str, batch: int
) -> tuple[Callable[[], None], Callable[[], None]]:
    """The official step and ours, compared and run once."""
    for module in (pair.official, pair.own):
        module.to(device).train(mode == "train")
    x = torch.randn(batch, site.height, site.width, site.dim, device=device)
    _same(pair, x)
    theirs = pair.to_official(x)
    return _step(pair.run_official, theirs, mode, precision), _step(pair.own, x, mode, precision)


def _same(pair: Pair, x: Tensor) -> None:
    with torch.no_grad():
        own = pair.own(x[:1])
        official = pair.from_official(pair.run_official(pair.to_official(x[:1])))
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


def _repeats(both: tuple[Callable[[], None], ...]) -> int:
    """Runs in a turn, so that the quicker one is not over at once."""
    start = time.perf_counter()
    for step in both:
        step()
    return max(1, round(_LEAST_S / (time.perf_counter() - start)))


def _time(step: Callable[[], None], repeats: int, device: str) -> float:
    cuda = device.startswith("cuda")
    clock = time.process_time if not cuda and torch.get_num_threads() == 1 else time.perf_counter
    step()
    if cuda:
        torch.cuda.synchronize()
    start = clock()
    for _ in range(repeats):
        step()
    if cuda:
        torch.cuda.synchronize()
    return clock() - start
