"""Ratios, verdicts and letters: known distributions, known answers, and coverage over many draws."""

import math

import numpy as np
import pytest

from attnbench import statistics


def draw(rng: np.random.Generator, blocks: int, ratio: float = 1.0, noise: float = 0.05) -> tuple:
    """Seconds of a candidate that is ``ratio`` times as fast as the baseline, and of the baseline."""
    return rng.lognormal(-math.log(ratio), noise, blocks), rng.lognormal(0, noise, blocks)


def test_ratio_is_of_speeds() -> None:
    interval = statistics.ratio_interval([0.5] * 8, [1.0] * 8)
    assert (interval.ratio, interval.low, interval.high) == pytest.approx((2, 2, 2))
    assert statistics.verdict(interval) == "faster"
    assert statistics.verdict(statistics.ratio_interval([1.0] * 8, [0.5] * 8)) == "slower"


def test_six_values_give_their_range_at_the_level_that_six_allow() -> None:
    d = [-0.05, -0.02, 0.01, 0.02, 0.04, 0.09]
    interval = statistics.ratio_interval(np.exp([-x for x in d]), [1.0] * 6)
    assert (math.log(interval.low), math.log(interval.high)) == pytest.approx((-0.05, 0.09))
    assert interval.method == "signed-rank"


def test_signed_rank_distribution_is_the_tabulated_one() -> None:
    # Wilcoxon's table: two-sided 5 % critical values of W for n = 6, 8, 10, 15, 20
    for blocks, critical in {6: 0, 8: 3, 10: 8, 15: 25, 20: 52}.items():
        assert statistics._signed_rank_quantile(blocks, 0.025) == critical + 1
    assert statistics._signed_rank_quantile(5, 0.025) == 0


@pytest.mark.parametrize(("freedom", "t"), [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262)])
def test_student_is_the_tabulated_one(freedom: int, t: float) -> None:
    assert statistics._student_inside(t, freedom) == pytest.approx(0.95, abs=1e-4)


@pytest.mark.parametrize("blocks", [3, 5, 6, 8, 15, 40])
@pytest.mark.parametrize("ratio", [1.0, 1.3])
def test_interval_holds_the_true_ratio_as_often_as_it_says(blocks: int, ratio: float) -> None:
    rng = np.random.default_rng(blocks)
    found = [statistics.ratio_interval(*draw(rng, blocks, ratio)) for _ in range(600)]
    missed = sum(not i.low <= ratio <= i.high for i in found)
    assert missed <= 45  # 30 expected; four standard deviations above would be 51


def test_bootstrap_agrees_where_blocks_are_many_and_covers_too_little_where_few() -> None:
    rng = np.random.default_rng(0)
    many = draw(rng, 200, 1.1)
    interval = statistics.ratio_interval(*many)
    assert statistics.bootstrap_interval(*many) == pytest.approx((interval.low, interval.high), abs=0.004)
    few = [statistics.bootstrap_interval(*draw(rng, 5), resamples=400) for _ in range(300)]
    assert sum(not low <= 1 <= high for low, high in few) / 300 > 0.07


def test_a_single_block_tells_nothing() -> None:
    interval = statistics.ratio_interval([1.0], [2.0])
    assert (interval.low, interval.high) == (0, math.inf)
    assert statistics.verdict(interval) == "cannot tell"
    assert statistics.bootstrap_interval([1.0], [2.0]) == (0, math.inf)


def test_differences_inside_the_margin_are_not_told() -> None:
    within, beyond = ([1 / (1 + x)] * 40 for x in (0.6 * statistics.MARGIN, 3 * statistics.MARGIN))
    assert statistics.verdict(statistics.ratio_interval(within, [1.0] * 40)) == "cannot tell"
    assert statistics.verdict(statistics.ratio_interval(beyond, [1.0] * 40)) == "faster"


def test_missing_cells_do_not_move_the_ratio() -> None:
    """The machine slows down by half after ten blocks, when the candidate has ceased to be measured."""
    machine = np.r_[np.ones(10), np.full(20, 1.5)]
    candidate = machine * 0.95
    candidate[10:] = np.nan
    assert np.nanmedian(machine) / np.nanmedian(candidate) > 1.5  # what medians of what is there would say
    interval = statistics.ratio_interval(candidate, machine)
    assert interval.ratio == pytest.approx(1 / 0.95)
    assert interval.blocks == 10


@pytest.mark.parametrize(
    ("candidate", "baseline", "message"),
    [
        ([1.0], [1.0, 2.0], "aligned by block"),
        ([math.nan], [1.0], "share a block"),
        ([0.0], [1.0], "positive"),
    ],
)
def test_samples_that_cannot_be_compared_are_refused(candidate: list, baseline: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        statistics.ratio_interval(candidate, baseline)


def test_rows_share_a_letter_where_they_are_not_told_apart() -> None:
    rng = np.random.default_rng(1)
    machine = rng.lognormal(0, 0.2, 15)  # common to all in a block
    centres = {"slow": 1.0, "a": 1.2, "b": 1.2, "fast": 1.5}
    found = statistics.letters({row: c * machine * rng.lognormal(0, 0.01, 15) for row, c in centres.items()})
    assert found == {"slow": "c", "a": "b", "b": "b", "fast": "a"}
    assert list(found) == list(centres)


def test_letters_bridge_groups_that_overlap() -> None:
    """Told apart: only the outermost two. The middle one bears both letters."""
    assert statistics._groups(["x", "y", "z"], {frozenset("xz")}) in (
        [frozenset("xy"), frozenset("yz")],
        [frozenset("yz"), frozenset("xy")],
    )


def test_letters_of_one_row_and_of_many() -> None:
    assert statistics.letters({"only": [1.0, 2.0]}) == {"only": "a"}
    rows = {f"r{i:02}": [1.2**i] * 15 for i in range(30)}
    found = statistics.letters(rows)
    assert len(set(found.values())) == 30
    assert (found["r29"], found["r00"]) == ("a", "<ad>")


def test_letters_seldom_tell_equal_rows_apart() -> None:
    rng = np.random.default_rng(2)
    told = sum(
        len(set(statistics.letters({str(r): rng.lognormal(0, 0.05, 12) for r in range(5)}).values())) > 1
        for _ in range(100)
    )
    assert told <= 8
