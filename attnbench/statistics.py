"""What paired samples of time say: ratios with intervals, and verdicts. docs/measuring.md has the sources.

The unit within a process is the block: one sample of every candidate, in an order drawn anew for each block.
Two candidates are compared block by block, by the logarithm of the ratio of their samples, so that whatever
slows the machine during a block cancels. The order being random, the differences from their centre fall on
either side alike whatever the noise is (heavy-tailed, correlated in time, drifting): that symmetry is what
the signed-rank interval rests on, and it holds by design.

Where each candidate was measured in several processes, one after another, the unit is the process: what
differs from one to the next (where data lie) is in the scatter of their centres and so in the interval, as
Kalibera and Jones ask. scipy is imported where it is used: tables need it seldom.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MARGIN = 0.03
"""Ratios closer to 1 than this are not told from 1 where each candidate was measured in one process: copies
of one model in two processes differ by as much, and no number of blocks averages that out. Several processes
measure it, and need no margin."""

SIGNED_RANK_BLOCKS = 6
"""Fewest blocks of which a signed-rank interval at the 95 % level can be had."""


@dataclass(frozen=True)
class RatioInterval:
    """How many times as fast as the baseline a candidate is, and the interval that the data allow.

    Args:
        ratio: of speeds: above 1 the candidate is faster.
        low, high: ends of the interval; 0 and infinity where a single block allows none.
        confidence: level of the interval.
        blocks: pairs of samples that it rests on.
        method: ``processes`` (Student's over their centres), ``signed-rank`` over blocks, ``student`` over
            fewer blocks than that needs, or ``welch`` between two runs.
        processes: of each candidate; from two on the interval holds what differs between them.
    """

    ratio: float
    low: float
    high: float
    confidence: float
    blocks: int
    method: str
    processes: int = 1

    @property
    def half_width(self) -> float:
        """Half the width relative to the ratio: 0.02 for ±2 %."""
        return math.sqrt(self.high / self.low) - 1 if self.low > 0 else math.inf

    @property
    def margin(self) -> float:
        """How near to 1 it must come to be no difference; see :data:`MARGIN`."""
        return 0.0 if self.processes > 1 else MARGIN


def ratio_interval(
    candidate_seconds: Sequence[float],
    baseline_seconds: Sequence[float],
    processes: Sequence[int] | None = None,
    confidence: float = 0.95,
) -> RatioInterval:
    """Speed of a candidate relative to the baseline, from samples aligned by block.

    Of one process, the estimate is that of Hodges and Lehmann, the median of the means of all pairs of log
    ratios, with the interval that inverts Wilcoxon's signed-rank test; exact for any noise that the random
    order makes symmetric. With fewer than six blocks, which allow no such interval at 95 %, it is the mean
    log ratio with Student's interval, which supposes normal noise and is wide. Of several processes, it is
    the mean of their Hodges-Lehmann estimates with Student's interval.

    Args:
        candidate_seconds, baseline_seconds: one sample per block, in block order; a block in which either
            is NaN (missing) is left out for both.
        processes: which process of the candidates each block was taken in; None for one.
        confidence: level of the interval.

    Raises:
        ValueError: the lengths differ, the two share no block, or a sample is not positive.
    """
    d, of_block = _paired(candidate_seconds, baseline_seconds, processes)
    units, count = _centres(d, of_block), len(np.unique(of_block))
    rank = 0 if count > 1 else _signed_rank_quantile(len(d), (1 - confidence) / 2)
    if rank:
        walsh = _walsh(d)
        centre, low, high = float(np.median(walsh)), walsh[rank - 1], walsh[-rank]
    else:
        centre, reach = float(units.mean()), _student_reach(units, confidence)
        low, high = centre - reach, centre + reach
    method = "processes" if count > 1 else "signed-rank" if rank else "student"
    ends = math.exp(centre), _exp(low), _exp(high)
    return RatioInterval(*ends, confidence, len(d), method, count)


def verdict(interval: RatioInterval, margin: float | None = None) -> str:
    """``faster`` or ``slower`` where the whole interval lies beyond a margin; else ``cannot tell``.

    Args:
        interval: of the ratio.
        margin: around 1; None for the interval's own.
    """
    margin = interval.margin if margin is None else margin
    if interval.low > 1 + margin:
        return "faster"
    if interval.high < 1 / (1 + margin):
        return "slower"
    return "cannot tell"


def unpaired_interval(
    after: Sequence[float],
    before: Sequence[float],
    after_processes: Sequence[int] | None = None,
    before_processes: Sequence[int] | None = None,
    confidence: float = 0.95,
) -> RatioInterval:
    """Geometric mean of ``after`` over that of ``before``, of samples from two runs that share no block.

    Welch's interval of the logarithms: of the centres of processes where both runs had several, else of the
    samples. ``blocks`` is the smaller number of samples.

    Args:
        after, before: positive values, of which larger is better: speeds, or speeds relative to a baseline.
        after_processes, before_processes: which process each was taken in; None for one.
        confidence: level of the interval.

    Raises:
        ValueError: a side is empty, or a value is not positive.
    """
    a, b = (np.asarray(side, dtype=np.float64) for side in (after, before))
    if not (a.size and b.size) or min(a.min(), b.min()) <= 0:
        raise ValueError("both sides must have samples, and every sample must be positive")
    few = int(min(a.size, b.size))
    a, b = np.log(a), np.log(b)
    of_a, of_b = _labels(a, after_processes), _labels(b, before_processes)
    count = min(len(np.unique(of_a)), len(np.unique(of_b)))
    if count > 1:
        a, b = _centres(a, of_a), _centres(b, of_b)
    low, high = _welch(a, b, confidence)
    centre = float(a.mean() - b.mean())
    return RatioInterval(math.exp(centre), _exp(low), _exp(high), confidence, few, "welch", count)


def p_value(
    candidate_seconds: Sequence[float],
    baseline_seconds: Sequence[float],
    processes: Sequence[int] | None = None,
    margin: float | None = None,
) -> float:
    """Probability of a difference at least so clear if the ratio were within the margin around 1.

    Of the same tests that :func:`ratio_interval` inverts, two-sided; ``margin`` as in :func:`verdict`.
    """
    d, of_block = _paired(candidate_seconds, baseline_seconds, processes)
    several = len(np.unique(of_block)) > 1
    m = math.log1p((0.0 if several else MARGIN) if margin is None else margin)
    units = _centres(d, of_block)
    by_rank = not several and len(d) >= SIGNED_RANK_BLOCKS
    above = _above_by_rank if by_rank else _above_by_student
    return min(1.0, 2 * min(above(units - m), above(-units - m)))


def _paired(
    candidate_seconds: Sequence[float], baseline_seconds: Sequence[float], processes: Sequence[int] | None
) -> tuple[Array, NDArray[np.int64]]:
    """Log ratio of speeds in each block that both have, and the process of each."""
    candidate, baseline = (np.asarray(s, dtype=np.float64) for s in (candidate_seconds, baseline_seconds))
    if candidate.shape != baseline.shape:
        raise ValueError(
            f"samples must be aligned by block; got {candidate.size} of the candidate and {baseline.size} of "
            "the baseline"
        )
    of_block = _labels(candidate, processes)
    both = ~(np.isnan(candidate) | np.isnan(baseline))
    candidate, baseline = candidate[both], baseline[both]
    if not candidate.size or min(candidate.min(), baseline.min()) <= 0:
        raise ValueError("the candidates must share a block, and every sample must be positive")
    return np.log(baseline) - np.log(candidate), of_block[both]


def _labels(samples: Array, processes: Sequence[int] | None) -> NDArray[np.int64]:
    """The process of each sample; all of one if it is not told."""
    labels = np.zeros(samples.size, np.int64) if processes is None else np.asarray(processes, np.int64)
    if labels.size != samples.size:
        raise ValueError(f"{samples.size} samples need as many processes, got {labels.size}")
    return labels


def _centres(d: Array, of_block: NDArray[np.int64]) -> Array:
    """Hodges and Lehmann's centre of each process; the values themselves where there is only one."""
    known = np.unique(of_block)
    if len(known) < 2:
        return d
    return np.array([np.median(_walsh(d[of_block == process])) for process in known])


def _walsh(d: Array) -> Array:
    """Means of all pairs of values, each with itself too, sorted."""
    i, j = _pairs(len(d))
    return np.sort((d[i] + d[j]) / 2)


@lru_cache(maxsize=32)
def _pairs(count: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Indices of all pairs, each with itself too; kept, since letters need them for every pair of rows."""
    i, j = np.triu_indices(count)
    return i, j


@lru_cache(maxsize=256)
def _signed_rank(blocks: int) -> Array:
    """P(W ≤ w) of Wilcoxon's signed-rank statistic for w = 0, 1, ... under symmetry, exactly.

    scipy has the test, but neither this distribution nor its quantiles, which the interval needs.
    """
    p = np.zeros(blocks * (blocks + 1) // 2 + 1)
    p[0] = 1
    for rank in range(1, blocks + 1):
        shifted = np.zeros_like(p)
        shifted[rank:] = p[:-rank]
        p = (p + shifted) / 2
    return np.cumsum(p)


def _signed_rank_quantile(blocks: int, tail: float) -> int:
    """How many of the sorted Walsh means the interval leaves out, plus one; 0 if it cannot be had."""
    return int(np.searchsorted(_signed_rank(blocks), tail, side="right"))


def _above_by_rank(d: Array) -> float:
    """One-sided p-value of the centre of ``d`` lying above 0, by the signed-rank test."""
    return float(_signed_rank(len(d))[int((_walsh(d) <= 0).sum())])


def _above_by_student(d: Array) -> float:
    """The same of the mean of ``d``, by Student's test."""
    if len(d) < 2:
        return 1.0
    error = _standard_error(d)
    if error == 0:
        return 0.0 if d[0] > 0 else 1.0
    from scipy.special import stdtr

    return float(stdtr(len(d) - 1, -float(d.mean()) / error))


def _student_reach(d: Array, confidence: float) -> float:
    """Half the width of Student's interval of the mean."""
    if len(d) < 2:
        return math.inf
    from scipy.special import stdtrit

    return float(stdtrit(len(d) - 1, (1 + confidence) / 2)) * _standard_error(d)


def _standard_error(d: Array) -> float:
    """Of the mean; 0 where the values differ by rounding only."""
    error = float(d.std(ddof=1)) / math.sqrt(len(d))
    return error if error > 1e-14 else 0.0


def _welch(a: Array, b: Array, confidence: float) -> tuple[float, float]:
    """Welch's interval of the difference of two means."""
    if min(a.size, b.size) < 2:
        return -math.inf, math.inf
    if _standard_error(a) == _standard_error(b) == 0:
        difference = float(a.mean() - b.mean())
        return difference, difference
    from scipy.stats import ttest_ind

    found = ttest_ind(a, b, equal_var=False).confidence_interval(confidence)
    return float(found.low), float(found.high)


def _exp(x: float) -> float:
    """Of the end of an interval, which may be infinite."""
    return math.inf if x > 700 else math.exp(x)
