"""Ratios, verdicts and letters: known distributions, known answers, and coverage over many draws."""

import math

import numpy as np
import pytest
from scipy import stats

from attnbench import letters as display
from attnbench import statistics
from attnbench.letters import letters


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


def test_p_values_are_those_of_scipy() -> None:
    rng = np.random.default_rng(3)
    for blocks in (3, 5, 7, 12, 30):
        candidate, baseline = draw(rng, blocks, 1.03)
        d = np.log(baseline / candidate)
        many = blocks >= statistics.SIGNED_RANK_BLOCKS
        expected = stats.wilcoxon(d, method="exact") if many else stats.ttest_1samp(d, 0)
        assert statistics.p_value(candidate, baseline, margin=0) == pytest.approx(expected.pvalue)


@pytest.mark.parametrize("blocks", [3, 5, 6, 8, 15, 40])
@pytest.mark.parametrize("ratio", [1.0, 1.3])
def test_interval_holds_the_true_ratio_as_often_as_it_says(blocks: int, ratio: float) -> None:
    rng = np.random.default_rng(blocks)
    found = [statistics.ratio_interval(*draw(rng, blocks, ratio)) for _ in range(600)]
    missed = sum(not i.low <= ratio <= i.high for i in found)
    assert missed <= 45  # 30 expected; four standard deviations above would be 51


def several(rng: np.random.Generator, processes: int, blocks: int, between: float, ratio: float = 1) -> tuple:
    """Samples of two candidates whose processes differ by ``between``, with noise of 1 % within."""
    seconds = [
        np.exp(np.repeat(rng.normal(0, between, processes), blocks) + rng.normal(0, 0.01, processes * blocks))
        for _ in range(2)
    ]
    return seconds[0] / ratio, seconds[1], np.repeat(np.arange(processes), blocks)


@pytest.mark.parametrize(("processes", "blocks"), [(2, 8), (3, 1), (5, 3), (8, 20)])
@pytest.mark.parametrize("ratio", [1.0, 1.05])
def test_interval_holds_what_differs_between_processes(processes: int, blocks: int, ratio: float) -> None:
    rng = np.random.default_rng(processes)
    found = [statistics.ratio_interval(*several(rng, processes, blocks, 0.01, ratio)) for _ in range(1000)]
    assert sum(not i.low <= ratio <= i.high for i in found) <= 75  # 50 expected, a deviation is 7
    assert {(i.method, i.processes, i.margin) for i in found} == {("processes", processes, 0.0)}


def test_blocks_alone_do_not_hold_what_differs_between_processes() -> None:
    """Why one process has a margin: its interval leaves the truth out more often than not."""
    rng = np.random.default_rng(0)
    one = [statistics.ratio_interval(*several(rng, 1, 60, 0.01)[:2]) for _ in range(200)]
    assert sum(not i.low <= 1 <= i.high for i in one) > 100
    assert all(statistics.verdict(i) == "cannot tell" for i in one if abs(i.ratio - 1) < statistics.MARGIN)
    assert {i.margin for i in one} == {statistics.MARGIN}


def test_a_process_of_outliers_does_not_make_a_difference() -> None:
    candidate, baseline, processes = several(np.random.default_rng(1), 6, 10, 0.005)
    candidate[:10] *= 1.5
    interval = statistics.ratio_interval(candidate, baseline, processes)
    assert statistics.verdict(interval) == "cannot tell"
    assert interval.half_width > 0.05


def test_more_processes_give_narrower_intervals_and_more_blocks_do_not() -> None:
    def width(processes: int, blocks: int) -> float:
        rng = np.random.default_rng(4)
        widths = [
            statistics.ratio_interval(*several(rng, processes, blocks, 0.01)).half_width for _ in range(100)
        ]
        return float(np.median(widths))

    assert width(12, 10) < 0.5 * width(4, 10)
    assert width(4, 100) > 0.8 * width(4, 10)


def test_two_runs_of_several_processes_are_compared_by_process() -> None:
    rng = np.random.default_rng(5)
    missed = 0
    for _ in range(400):
        after, before, processes = several(rng, 5, 10, 0.01)
        interval = statistics.unpaired_interval(after, before, processes, processes)
        missed += not interval.low <= 1 <= interval.high
    assert interval.margin == 0
    assert missed <= 32  # 20 expected
    assert statistics.unpaired_interval(after, before, processes).margin == statistics.MARGIN


def test_a_single_block_tells_nothing() -> None:
    interval = statistics.ratio_interval([1.0], [2.0])
    assert (interval.low, interval.high) == (0, math.inf)
    assert statistics.verdict(interval) == "cannot tell"


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
    found = letters({row: c * machine * rng.lognormal(0, 0.01, 15) for row, c in centres.items()})
    assert found == {"slow": "c", "a": "b", "b": "b", "fast": "a"}
    assert list(found) == list(centres)


def test_letters_bridge_groups_that_overlap() -> None:
    """Told apart: only the outermost two. The middle one bears both letters."""
    assert display._groups(["x", "y", "z"], {frozenset("xz")}) in (
        [frozenset("xy"), frozenset("yz")],
        [frozenset("yz"), frozenset("xy")],
    )


def test_letters_of_one_row_and_of_many() -> None:
    assert letters({"only": [1.0, 2.0]}) == {"only": "a"}
    rows = {f"r{i:02}": [1.2**i] * 15 for i in range(30)}
    found = letters(rows)
    assert len(set(found.values())) == 30
    assert (found["r29"], found["r00"]) == ("a", "(ad)")


def test_letters_seldom_tell_equal_rows_apart() -> None:
    rng = np.random.default_rng(2)
    told = sum(
        len(set(letters({str(r): rng.lognormal(0, 0.05, 12) for r in range(5)}).values())) > 1
        for _ in range(100)
    )
    assert told <= 8


def test_letters_of_several_processes_have_no_margin_and_hold_what_differs_between_them() -> None:
    rng = np.random.default_rng(6)
    processes = np.repeat(np.arange(8), 5)

    def row(speed: float) -> np.ndarray:
        return speed * np.exp(rng.normal(0, 0.003, 8)[processes] + rng.normal(0, 0.003, 40))

    rows = {"a": row(1.0), "near": row(1.02), "like near": row(1.02)}
    assert letters(rows, processes) == {"a": "b", "near": "a", "like near": "a"}
    assert set(letters(rows).values()) == {"a"}  # one process: within the margin
    assert letters(rows, margin=0.005)["a"] == "b"


def test_runs_that_share_no_process_number_are_refused() -> None:
    with pytest.raises(ValueError, match="as many processes"):
        statistics.ratio_interval([1.0, 1.0], [1.0, 1.0], [0])
