"""What accuracies of several seeds say: means with intervals over seeds, and which rows are told apart.

The unit is the seed: a model trained anew. Test pictures are the same for all and many, so that what remains
is how training falls out. Two mechanisms are compared seed by seed, since a seed also makes the pictures that
both were trained on. Student's intervals and tests: a handful of seeds allows no others.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from attnbench import letters

Array = NDArray[np.float64]

MARGIN = 1.0
"""Points of accuracy; means closer than this are not told apart, however alike their seeds are."""

LEAST = 3
"""Seeds that two rows must share to be compared: of two, an interval is some twelve standard errors wide."""

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Mean:
    """A mean over seeds, half the width of its interval (infinite for one seed), and how many they were."""

    value: float
    half_width: float
    seeds: int


def mean(values: Sequence[float], confidence: float = CONFIDENCE) -> Mean:
    """Mean with Student's interval; ValueError without a value."""
    if not values:
        raise ValueError("a mean needs at least one seed")
    array = np.asarray(values, dtype=np.float64)
    return Mean(float(array.mean()), _reach(array, confidence), len(array))


def apart(
    rows: Mapping[str, Mapping[int, float]], margin: float = MARGIN, confidence: float = CONFIDENCE
) -> set[frozenset[str]]:
    """Pairs of rows whose means differ by more than the margin, in the seeds that both have.

    Of the pairs told apart, at most 1 − ``confidence`` are expected to be mistakes (the false discovery rate:
    Benjamini and Hochberg, 1995). A pair that shares fewer than :data:`LEAST` seeds is not told apart.

    Args:
        rows: accuracy in percent by seed, by row.
        margin: points.
        confidence: see above.
    """
    pairs = list(combinations(sorted(rows), 2))
    p = np.array([_p_value(_differences(rows[one], rows[other]), margin) for one, other in pairs])
    return letters.told_apart(pairs, p, confidence)


def detectable(rows: Mapping[str, Mapping[int, float]], confidence: float = CONFIDENCE) -> float:
    """The smallest difference in points that so many seeds would tell, for the median pair of rows.

    The margin and the reach of the interval of a paired difference. Infinite with fewer than :data:`LEAST`
    seeds.
    """
    pairs = combinations(sorted(rows), 2)
    shared = [_differences(rows[one], rows[other]) for one, other in pairs]
    reaches = [_reach(d, confidence) if len(d) >= LEAST else math.inf for d in shared]
    return MARGIN + float(np.median(reaches)) if reaches else math.inf


def kendall(
    one: Sequence[float], other: Sequence[float], confidence: float = CONFIDENCE, resamples: int = 4000
) -> tuple[float, float, float]:
    """Kendall's tau-b of two rankings of the same rows, and the bootstrap interval over the rows.

    Raises:
        ValueError: fewer than four rows, of which no interval can be had.
    """
    from scipy.stats import kendalltau

    x, y = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    if len(x) < 4:
        raise ValueError(f"a rank correlation needs at least four rows, got {len(x)}")
    draws = np.random.default_rng(0).integers(len(x), size=(resamples, len(x)))
    found = [_tau(x[rows], y[rows]) for rows in draws]
    known = [tau for tau in found if not math.isnan(tau)]  # a draw of one row alone has none
    low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(kendalltau(x, y).statistic), float(low), float(high)


def _tau(x: Array, y: Array) -> float:
    """Tau-b, ties counted by half; NaN where one side is constant."""
    dx, dy = (np.sign(side[:, None] - side[None, :]) for side in (x, y))
    norm = math.sqrt(float((dx**2).sum()) * float((dy**2).sum()))
    return float((dx * dy).sum()) / norm if norm else math.nan


def _differences(one: Mapping[int, float], other: Mapping[int, float]) -> Array:
    return np.array([one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())])


def _reach(values: Array, confidence: float) -> float:
    """Half the width of Student's interval of a mean."""
    if len(values) < 2:
        return math.inf
    from scipy.stats import t

    quantile = float(t.ppf((1 + confidence) / 2, len(values) - 1))
    return quantile * float(values.std(ddof=1)) / math.sqrt(len(values))


def _p_value(differences: Array, margin: float) -> float:
    """Probability of a mean so far beyond the margin if the truth were at it; of both sides."""
    if len(differences) < LEAST:
        return 1.0
    beyond = abs(float(differences.mean())) - margin
    error = float(differences.std(ddof=1)) / math.sqrt(len(differences))
    if beyond <= 0:
        return 1.0
    if error == 0:
        return 0.0
    from scipy.stats import t

    return min(1.0, 2 * float(t.sf(beyond / error, len(differences) - 1)))
