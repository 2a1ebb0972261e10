"""Clocks, machines and workloads that lie; each test fails if the defence it names is taken out."""

import math
from pathlib import Path
from statistics import median

import pytest
from made_up import Fake, World, cell

from attnbench import store
from attnbench.harness.timing import clock
from attnbench.harness.timing.blocks import Block, Effort
from attnbench.harness.timing.clock import ClockError, HostClock
from attnbench.harness.timing.group import Group, measure
from attnbench.progress import PlainProgress
from attnbench.record import Measurement

FORTY = Effort(warmup_s=1, min_blocks=40, max_blocks=40, budget_s=0)


def run(tmp_path: Path, effort: Effort = FORTY, **fakes: Fake) -> dict[str, Measurement | Exception]:
    """Measure fakes against the one called ``baseline``."""
    group = Group([cell(name) for name in fakes], "baseline", effort, tmp_path / "blocks.jsonl")
    outcomes = measure(group, lambda cell: fakes[cell.mechanism], PlainProgress())
    return {c.mechanism: found if isinstance(found, Exception) else found[0] for c, found in outcomes}


def test_a_timer_that_does_not_synchronise_is_found_out(tmp_path: Path) -> None:
    """It shows the time to launch, a twentieth of what the host then waits."""
    world = World(pace=lambda now: 0.05)
    found = run(tmp_path, baseline=Fake(world), other=Fake(world))
    assert all(isinstance(f, ClockError) and "does it wait" in str(f) for f in found.values())


def test_a_clock_that_drifts_is_found_out(tmp_path: Path) -> None:
    """Over all it is 1.4 % off, which would pass; but it gains a third of a percent with every second."""
    world = World(pace=lambda now: 1 + 0.0035 * now)
    found = run(tmp_path, baseline=Fake(world), other=Fake(world))
    assert all(isinstance(f, ClockError) and "times what passed" in str(f) for f in found.values())
    honest = World()
    assert isinstance(run(tmp_path, baseline=Fake(honest))["baseline"], Measurement)


def test_a_drifting_machine_leaves_the_ratio_unbiased_where_one_after_the_other_is_off(
    tmp_path: Path,
) -> None:
    """A machine that grows 0.5 % slower with every second, as one that heats up does."""

    def slowness(now: float) -> float:
        return math.exp(0.005 * now)

    truth = 1.25
    sequential = World(slowness, noise=0.02)
    other = [sequential.work(0.1 / truth).device_s for _ in range(200)]
    baseline = [sequential.work(0.1).device_s for _ in range(200)]
    assert abs(median(baseline) / median(other) / truth - 1) > 0.05
    world = World(slowness, noise=0.02)
    effort = Effort(1, 200, 200, 0)
    found = run(tmp_path, effort, baseline=Fake(world), other=Fake(world, 0.1 / truth))["other"]
    assert isinstance(found, Measurement)
    assert found.details["ratio"] == pytest.approx(truth, rel=0.005)
    assert found.details["ratio_low"] < truth < found.details["ratio_high"]
    assert found.details["ratio_high"] / found.details["ratio_low"] < 1.015  # block by block
    assert found.details["verdict"] == "faster"


def test_a_clock_quantised_to_a_millisecond_gets_samples_that_are_long_enough() -> None:
    """Steps of 3.3 and 3.6 ms look like 3 and 4, or 3 and 3; their ratio is 1.09."""
    passed = {"s": 0.0}

    def now() -> float:
        passed["s"] += 1e-5  # reading the clock takes time
        return math.floor(passed["s"] * 1e3) / 1e3

    timer = HostClock(now)
    assert timer.tick() == pytest.approx(1e-3)
    measured = []
    for true_s in (0.0033, 0.0036):

        def step(true_s: float = true_s) -> None:
            passed["s"] += true_s

        repeats = clock.steps_per_sample(true_s, timer.tick())
        assert repeats * true_s >= 0.19
        measured.append(timer(step, repeats).device_s / repeats)
    assert measured[1] / measured[0] == pytest.approx(0.0036 / 0.0033, rel=0.01)


def test_a_load_that_starts_half_way_does_not_move_the_ratio_and_is_noted(tmp_path: Path) -> None:
    world = World(lambda now: 1.0 if now < 4 else 1.6, noise=0.01)
    found = run(tmp_path, baseline=Fake(world), other=Fake(world, 0.1 / 1.1))["other"]
    assert isinstance(found, Measurement)
    assert found.details["ratio"] == pytest.approx(1.1, rel=0.01)
    assert found.details["steady"] is False
    assert found.details["second_half"] == pytest.approx(0.6, abs=0.05)
    still = World(noise=0.01)
    steady = run(tmp_path, baseline=Fake(still), third=Fake(still))["third"]
    assert isinstance(steady, Measurement)
    assert steady.details["steady"] is True


def test_cells_that_go_missing_do_not_move_medians(tmp_path: Path) -> None:
    """One candidate breaks in block 12, when the machine slows down: the others keep the same blocks.

    And of blocks that an earlier run left, from a quicker machine, those without a candidate do not count.
    """
    left = {cell("baseline").key(): 0.01, cell("broken").key(): 0.01}
    tag = Group([cell(n) for n in ("baseline", "other", "broken")], "baseline", FORTY, tmp_path).tag()
    store.append(tmp_path / "blocks.jsonl", [Block(group=tag, seconds=left) for _ in range(30)])
    world = World(lambda now: 1.0 if now < 3.3 else 1.5)
    broken = Fake(world, fails_at=12)
    found = run(tmp_path, baseline=Fake(world), other=Fake(world, 0.1 / 1.1), broken=broken)
    assert isinstance(found["broken"], RuntimeError)
    baseline, other = found["baseline"], found["other"]
    assert isinstance(baseline, Measurement)
    assert isinstance(other, Measurement)
    assert len(baseline.samples) == len(other.samples) == 40
    assert other.details["ratio"] == pytest.approx(1.1, rel=1e-6)
    assert other.value / baseline.value == pytest.approx(1.1, rel=1e-6)


def test_a_rate_above_the_roofline_voids_the_row(tmp_path: Path) -> None:
    """The device reaches 1e9 MACs/s; one candidate claims ten times that, the other half of it."""
    world = World()
    found = run(tmp_path, baseline=Fake(world, least=50_000_000), other=Fake(world, least=1_000_000_000))
    assert isinstance(found["baseline"], Measurement)
    assert "the work was not done" in str(found["other"])
