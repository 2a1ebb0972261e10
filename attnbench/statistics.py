"""What paired samples of time say: ratios with intervals, verdicts, and letters for rows not told apart.

The unit is the block: one sample of every candidate, in an order drawn anew for each block. Two candidates
are compared block by block, by the logarithm of the ratio of their samples, so that whatever slows the
machine during a block cancels. The order being random, the differences from their centre fall on either
side alike whatever the noise is (heavy-tailed, correlated in time, drifting): that symmetry is what the
signed-rank interval rests on, and it holds by design. docs/measuring.md explains and gives the sources.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from statistics import NormalDist
from string import ascii_lowercase

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MARGIN = 0.03
"""Ratios closer to 1 than this are not told from 1: copies of one model in two processes differ by as much,
for where the system happens to put them; see docs/measuring.md."""

MARGIN_IN_PROCESS = 0.005
"""The same for candidates that share a process, its memory and its threads."""

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
        method: ``signed-rank``, or ``student`` with fewer blocks than that needs.
    """

    ratio: float
    low: float
    high: float
    confidence: float
    blocks: int
    method: str

    @property
    def half_width(self) -> float:
        """Half the width relative to the ratio: 0.02 for ±2 %."""
        return math.sqrt(self.high / self.low) - 1 if self.low > 0 else math.inf


def ratio_interval(
    candidate_seconds: Sequence[float], baseline_seconds: Sequence[float], confidence: float = 0.95
) -> RatioInterval:
    """Speed of a candidate relative to the baseline, from samples aligned by block.

    The estimate is the Hodges-Lehmann one, the median of the means of all pairs of log ratios, with the
    interval that inverts Wilcoxon's signed-rank test; exact for any noise that the random order makes
    symmetric. With fewer than six blocks, which allow no such interval at 95 %, it is the mean log ratio
    with Student's interval, which supposes normal noise and is wide.

    Args:
        candidate_seconds, baseline_seconds: one sample per block, in block order; a block in which either
            is NaN (missing) is left out for both.
        confidence: level of the interval.

    Raises:
        ValueError: the two differ in length, share no block, or a sample is not positive.
    """
    d = log_ratios(candidate_seconds, baseline_seconds)
    rank = _signed_rank_quantile(len(d), (1 - confidence) / 2)
    if rank:
        walsh = _walsh(d)
        centre, low, high = float(np.median(walsh)), walsh[rank - 1], walsh[-rank]
        method = "signed-rank"
    else:
        centre, reach = float(d.mean()), _student_reach(d, confidence)
        low, high, method = centre - reach, centre + reach, "student"
    return RatioInterval(
        math.exp(centre), float(np.exp(low)), float(np.exp(high)), confidence, len(d), method
    )


def verdict(interval: RatioInterval, margin: float = MARGIN) -> str:
    """``faster`` or ``slower`` where the whole interval lies beyond the margin; else ``cannot tell``."""
    if interval.low > 1 + margin:
        return "faster"
    if interval.high < 1 / (1 + margin):
        return "slower"
    return "cannot tell"


def log_ratios(candidate_seconds: Sequence[float], baseline_seconds: Sequence[float]) -> Array:
    """Logarithm of the ratio of speeds in each block that both have; see :func:`ratio_interval`."""
    candidate, baseline = (np.asarray(s, dtype=np.float64) for s in (candidate_seconds, baseline_seconds))
    if candidate.shape != baseline.shape:
        raise ValueError(
            f"samples must be aligned by block; got {candidate.size} of the candidate and {baseline.size} of "
            "the baseline"
        )
    both = ~(np.isnan(candidate) | np.isnan(baseline))
    candidate, baseline = candidate[both], baseline[both]
    if not candidate.size or min(candidate.min(), baseline.min()) <= 0:
        raise ValueError("the candidates must share a block, and every sample must be positive")
    return np.log(baseline) - np.log(candidate)


def bootstrap_interval(
    candidate_seconds: Sequence[float],
    baseline_seconds: Sequence[float],
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = 2000,
) -> tuple[float, float]:
    """BCa bootstrap interval of the geometric mean ratio: a second opinion, recorded beside the first.

    Blocks are drawn, never samples. It covers less than it says with few blocks, so no verdict uses it.
    Source: Efron, 1987, "Better bootstrap confidence intervals".
    """
    d = log_ratios(candidate_seconds, baseline_seconds)
    mean = float(d.mean())
    if len(d) < 3 or not d.std() > 1e-12:
        return (math.exp(mean), math.exp(mean)) if len(d) >= 3 else (0.0, math.inf)
    draws = np.random.default_rng(seed).integers(len(d), size=(resamples, len(d)))
    means = np.sort(d[draws].mean(axis=1))
    normal = NormalDist()
    share = float((means < mean).mean())
    bias = normal.inv_cdf(min(max(share, 1 / resamples), 1 - 1 / resamples))
    left_out = mean - (d.sum() - d) / (len(d) - 1)
    acceleration = float((left_out**3).sum() / (6 * (left_out**2).sum() ** 1.5))
    ends = []
    for p in ((1 - confidence) / 2, (1 + confidence) / 2):
        z = bias + normal.inv_cdf(p)
        ends.append(normal.cdf(bias + z / (1 - acceleration * z)))
    low, high = np.quantile(means, ends)
    return math.exp(low), math.exp(high)


def unpaired_interval(
    after: Sequence[float], before: Sequence[float], confidence: float = 0.95, seed: int = 0
) -> RatioInterval:
    """Geometric mean of ``after`` over that of ``before``, of samples from two runs that share no block.

    A percentile bootstrap that draws from each side on its own; with fewer than eight samples on a side,
    where that covers less than it says, Welch's interval. ``blocks`` is the smaller number of samples.

    Args:
        after, before: positive values, of which larger is better: speeds, or speeds relative to a baseline.
        confidence: level of the interval.
        seed: of the draws.

    Raises:
        ValueError: a side is empty, or a value is not positive.
    """
    a, b = (np.asarray(side, dtype=np.float64) for side in (after, before))
    if not (a.size and b.size) or min(a.min(), b.min()) <= 0:
        raise ValueError("both sides must have samples, and every sample must be positive")
    a, b = np.log(a), np.log(b)
    centre, few = float(a.mean() - b.mean()), int(min(a.size, b.size))
    if few >= 8:
        rng = np.random.default_rng(seed)
        means = [side[rng.integers(side.size, size=(2000, side.size))].mean(axis=1) for side in (a, b)]
        tails = ((1 - confidence) / 2, (1 + confidence) / 2)
        low, high = (float(end) for end in np.quantile(means[0] - means[1], tails))
        method = "bootstrap"
    else:
        reach = _welch_reach(a, b, confidence)
        low, high, method = centre - reach, centre + reach, "welch"
    ends = (math.exp(max(low, -700.0)), math.exp(high) if high < 700 else math.inf)
    return RatioInterval(math.exp(centre), ends[0] if low > -700 else 0.0, ends[1], confidence, few, method)


def _welch_reach(a: Array, b: Array, confidence: float) -> float:
    """Half the width of Welch's interval of the difference of two means; freedom after Satterthwaite."""
    if min(a.size, b.size) < 2:
        return math.inf
    parts = [float(side.var(ddof=1)) / side.size for side in (a, b)]
    if sum(parts) == 0:
        return 0.0
    shares = sum(part**2 / (side.size - 1) for part, side in zip(parts, (a, b), strict=True))
    return _student_quantile(max(1, int(sum(parts) ** 2 / shares)), confidence) * math.sqrt(sum(parts))


def p_value(
    candidate_seconds: Sequence[float], baseline_seconds: Sequence[float], margin: float = MARGIN
) -> float:
    """Probability of a difference at least so clear if the ratio were within the margin around 1.

    Of the same tests that :func:`ratio_interval` inverts, two-sided.
    """
    d, m = log_ratios(candidate_seconds, baseline_seconds), math.log1p(margin)
    return min(1.0, 2 * min(_above(d - m), _above(-d - m)))


def letters(
    samples_by_row: Mapping[str, Sequence[float]], confidence: float = 0.95, margin: float = MARGIN
) -> dict[str, str]:
    """Compact letter display: rows that share a letter are not told apart.

    All pairs are compared; of those told apart, at most 1 − ``confidence`` are expected to be mistakes
    (the false discovery rate: Benjamini and Hochberg, 1995).

    Args:
        samples_by_row: samples of each row, aligned by block, all in seconds or all in images/s.
        confidence: see above.
        margin: ratios closer to 1 are not told apart.

    Returns:
        Letters by row, in the order given; ``a`` is the group of the highest median.
    """
    rows = sorted(samples_by_row, key=lambda row: -float(np.nanmedian(samples_by_row[row])))
    pairs = list(combinations(rows, 2))
    p = np.array([p_value(samples_by_row[one], samples_by_row[other], margin) for one, other in pairs])
    ranked = np.sort(p)
    passed = np.nonzero(ranked <= (1 - confidence) * np.arange(1, len(p) + 1) / max(len(p), 1))[0]
    threshold = ranked[passed[-1]] if len(passed) else -1.0
    apart = {frozenset(pair) for pair, value in zip(pairs, p, strict=True) if value <= threshold}
    groups = sorted(_groups(rows, apart), key=lambda group: sorted(map(rows.index, group)))
    return {
        row: "".join(_letter(i) for i, group in enumerate(groups) if row in group) for row in samples_by_row
    }


def _groups(rows: Sequence[str], apart: set[frozenset[str]]) -> list[frozenset[str]]:
    """Largest sets of rows in which no two are told apart.

    Insert and absorb: split each set that holds a pair told apart, drop sets inside others.
    Source: Piepho, 2004, "An algorithm for a letter-based representation of all-pairwise comparisons".
    """
    groups = {frozenset(rows)}
    for pair in sorted(apart, key=sorted):
        split = {group - {row} for group in groups if pair <= group for row in pair}
        kept = {group for group in groups if not pair <= group} | split
        groups = {group for group in kept if not any(group < other for other in kept)}
    return list(groups)


def _letter(index: int) -> str:
    """a to z, then aa, ab and so on in angle brackets, so that no two read as one."""
    if index < 26:
        return ascii_lowercase[index]
    return f"<{ascii_lowercase[index // 26 - 1]}{ascii_lowercase[index % 26]}>"


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
    """P(W ≤ w) of Wilcoxon's signed-rank statistic for w = 0, 1, ... under symmetry, exactly."""
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


def _above(d: Array) -> float:
    """One-sided p-value of the centre of ``d`` lying above 0: exact signed-rank, or Student for few."""
    if len(d) >= SIGNED_RANK_BLOCKS:
        return float(_signed_rank(len(d))[int((_walsh(d) <= 0).sum())])
    if len(d) < 2:
        return 1.0
    spread = float(d.std(ddof=1)) / math.sqrt(len(d))
    if spread == 0:
        return 0.0 if d[0] > 0 else 1.0
    t = float(d.mean()) / spread
    inside = _student_inside(abs(t), len(d) - 1)
    return (1 - inside) / 2 if t > 0 else (1 + inside) / 2


def _student_reach(d: Array, confidence: float) -> float:
    if len(d) < 2:
        return math.inf
    return _student_quantile(len(d) - 1, confidence) * float(d.std(ddof=1)) / math.sqrt(len(d))


def _student_quantile(freedom: int, confidence: float) -> float:
    """The t with P(−t < T < t) = ``confidence``."""
    low, high = 0.0, 1e6
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _student_inside(middle, freedom) < confidence else (low, middle)
    return high


def _student_inside(t: float, freedom: int) -> float:
    """P(−t < T < t) of Student's distribution (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    theta = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    term, total = (math.cos(theta) if odd else 1.0), 0.0
    for k in range(odd, freedom - 1, 2):
        total += term
        term *= math.cos(theta) ** 2 * (k + 1) / (k + 2)
    total *= math.sin(theta)
    return 2 / math.pi * (theta + total) if odd else total
