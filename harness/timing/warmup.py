"""Warm-up: how long a candidate runs before it is measured. It ends when its times no longer drift.

A constant number of steps is too few for one device and a waste on another: caches fill, clocks rise and
fall, kernels are chosen. So steps run until the last samples show no trend, by the test of Mann (1945) and
Kendall, or until a cap is reached, which the record then says.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WINDOW = 8
"""Samples that are tested for a trend."""
_LEVEL = 0.2  # of the test: the more cautious one errs towards running on


@dataclass(frozen=True)
class Cap:
    """Where warm-up ends even if there is a trend: after so many seconds, the first step left out."""

    seconds: float


@dataclass(frozen=True)
class WarmUp:
    """What happened: samples and seconds spent, and whether the times had settled by then."""

    samples: int
    seconds: float
    settled: bool


def warm_up(sample: Callable[[], float], cap: Cap, already_s: float = 0.0) -> WarmUp:
    """Take samples until they settle.

    Args:
        sample: takes one and returns its seconds.
        cap: see there.
        already_s: seconds spent before, e.g. on the first step.
    """
    seconds: list[float] = []
    spent = already_s
    while spent < cap.seconds:
        seconds.append(sample())
        spent += seconds[-1]
        if settled(seconds):
            return WarmUp(len(seconds), spent, True)
    return WarmUp(len(seconds), spent, False)


def settled(seconds: Sequence[float]) -> bool:
    """Whether the last samples, enough of them, show no trend in either direction."""
    last = seconds[-WINDOW:]
    return len(last) == WINDOW and trend(last) > _LEVEL


def trend(values: Sequence[float]) -> float:
    """Two-sided p-value of Mann and Kendall's test: how often values in random order rise or fall so."""
    from scipy.stats import kendalltau  # here: it takes a second, and only processes that time need it

    found = float(kendalltau(range(len(values)), values).pvalue)
    return 1.0 if math.isnan(found) else found  # all values are the same
