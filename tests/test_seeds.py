"""Means over seeds, differences told apart, rank correlation: against scipy and by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from attnbench import seeds


def test_interval_is_students() -> None:
    values = [70.0, 72.0, 71.0, 75.0, 69.0]
    found = seeds.mean(values)
    low, high = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    assert found.value == pytest.approx(71.4)
    assert (found.value - found.half_width, found.value + found.half_width) == pytest.approx((low, high))
    assert found.seeds == 5


def test_one_seed_has_no_interval() -> None:
    assert seeds.mean([50.0]).half_width == math.inf
    with pytest.raises(ValueError, match="at least one seed"):
        seeds.mean([])


def by_seed(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


def test_pairs_are_compared_seed_by_seed() -> None:
    """Seeds differ by 30 points, but one row is always 3 above the other: paired, that is plain."""
    low = by_seed(20.0, 35.0, 50.0, 28.0, 44.0)
    rows = {"low": low, "high": {seed: value + 3 + 0.1 * seed for seed, value in low.items()}}
    assert seeds.apart(rows) == {frozenset({"low", "high"})}
    shuffled = {"low": low, "high": by_seed(*reversed(list(rows["high"].values())))}
    assert not seeds.apart(shuffled)


def test_ties_are_ties() -> None:
    exact = by_seed(50.0, 50.0, 50.0)
    assert not seeds.apart({"one": exact, "other": exact})
    assert not seeds.apart({"one": exact, "other": by_seed(50.9, 50.9, 50.9)})  # within the margin
    assert seeds.apart({"one": exact, "other": by_seed(51.1, 51.1, 51.1)})


def test_fewer_than_three_common_seeds_tell_nothing() -> None:
    assert not seeds.apart({"one": by_seed(10.0), "other": by_seed(90.0)})
    assert not seeds.apart({"one": by_seed(10.0, 11.0), "other": by_seed(90.0, 91.0)})
    assert not seeds.apart({"one": {0: 10.0, 1: 11.0, 4: 10.0}, "other": {2: 90.0, 3: 91.0, 4: 90.0}})
    assert seeds.apart({"one": by_seed(10.0, 11.0, 10.0), "other": by_seed(90.0, 91.0, 90.0)})


def test_false_discoveries_are_rare_among_alike_rows() -> None:
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(100):
        rows = {str(row): by_seed(*rng.normal(50, 3, size=5)) for row in range(6)}
        found += bool(seeds.apart(rows))
    assert found <= 5


def test_detectable_difference_shrinks_with_seeds() -> None:
    rng = np.random.default_rng(0)
    few, many = ({row: by_seed(*rng.normal(50, 2, size=n)) for row in "abcd"} for n in (3, 10))
    assert seeds.MARGIN < seeds.detectable(many) < seeds.detectable(few) < math.inf
    assert seeds.detectable({"a": by_seed(1.0), "b": by_seed(2.0)}) == math.inf
    assert seeds.detectable({"a": by_seed(1.0)}) == math.inf


def test_kendall_is_scipys_and_its_interval_holds_it() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=12)
    y = np.round(x + rng.normal(size=12), 1)
    tau, low, high = seeds.kendall(list(x), list(y))
    assert tau == pytest.approx(stats.kendalltau(x, y).statistic)
    assert seeds._tau(x, y) == pytest.approx(tau)
    assert low < tau < high
    assert low >= -1
    assert high <= 1
    with pytest.raises(ValueError, match="at least four rows"):
        seeds.kendall([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
