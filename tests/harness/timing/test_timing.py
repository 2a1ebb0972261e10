"""Blocks, warm-up, clocks, sensors and groups, on work of known length and in worlds of known noise."""

import json
import math
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from made_up import WORLDS, Fake, World, cell, simulated

from attnbench import statistics, store
from attnbench.harness.timing import clock, warmup
from attnbench.harness.timing.blocks import Block, Effort, measure_blocks
from attnbench.harness.timing.clock import Sample, device_clock
from attnbench.harness.timing.group import Group, groups, measure
from attnbench.harness.timing.session import Session
from attnbench.harness.timing.throttle import NvmlSensors, Reading, sensors_of
from attnbench.harness.timing.warmup import Cap
from attnbench.progress import QuietProgress
from attnbench.record import Cell

CPU = torch.device("cpu")


@pytest.mark.parametrize("milliseconds", [20, 60])
def test_clock_on_work_of_known_length(milliseconds: int) -> None:
    def step() -> torch.Tensor:
        time.sleep(milliseconds / 1e3)
        return torch.zeros(1)

    found = [device_clock(CPU)(step, 1) for _ in range(3)]
    assert min(s.device_s for s in found) == pytest.approx(milliseconds / 1e3, rel=0.2)
    assert all(s.device_s <= s.host_s for s in found)
    assert clock.fault(found) == ""


def test_short_steps_are_repeated_inside_one_sample() -> None:
    assert clock.steps_per_sample(0.001, 1e-7) == 20
    assert clock.steps_per_sample(0.5, 1e-7) == 1


def test_candidates_take_their_turns_in_changing_order() -> None:
    order: list[str] = []

    def sampler(name: str) -> Any:
        return lambda: order.append(name) or Sample(0.1, 0.1)

    measure_blocks("", {n: sampler(n) for n in "abcd"}, dict.fromkeys("abcd", 1), Effort(0, 40, 40, 0))
    rounds = [tuple(order[i : i + 4]) for i in range(0, len(order), 4)]
    assert all(sorted(r) == ["a", "b", "c", "d"] for r in rounds)
    first = [r[0] for r in rounds]
    assert all(first.count(name) >= 3 for name in "abcd")


def test_the_width_of_the_interval_ends_a_measurement_and_so_does_the_budget() -> None:
    def blocks(noise: float, effort: Effort) -> int:
        world = World(noise=noise)
        samplers = {name: lambda: world.work(0.1) for name in ("a", "b")}
        found = measure_blocks("", samplers, {"a": 1, "b": 1}, effort, baseline="a")
        return len(found.taken)

    narrow = Effort(0, 15, 500, 1e9, half_width=0.02)
    assert 15 <= blocks(0.01, narrow) < blocks(0.1, narrow) < 500
    assert blocks(0.1, Effort(0, 15, 20, 1e9, half_width=0.001)) == 20
    found = measure_blocks(
        "", {"a": lambda: Sample(time.sleep(0.01) or 0.01, 0.01)}, {"a": 1}, Effort(0, 2, 10**6, 0.3)
    )
    assert 2 <= len(found.taken) < 1000


def test_what_ends_a_measurement_is_not_that_a_difference_shows() -> None:
    """A difference of half is plain after three blocks; the interval is not yet narrow."""
    world = World(noise=0.1)
    samplers = {"a": lambda: world.work(0.1), "b": lambda: world.work(0.05)}
    found = measure_blocks("", samplers, {"a": 1, "b": 1}, Effort(0, 3, 60, 1e9, 0.01), baseline="a")
    assert len(found.taken) > 40


def test_a_block_in_which_the_device_was_throttled_is_put_aside_and_counted() -> None:
    hot = Reading(900, 90, throttled="hardware thermal slowdown")
    cool = Reading(1980, 60)
    turn = iter(range(1000))

    def sample() -> Sample:
        number = next(turn)
        return Sample(0.2, 0.2, hot) if number % 4 == 1 else Sample(0.1, 0.1, cool)

    found = measure_blocks("", {"a": sample}, {"a": 1}, Effort(0, 9, 9, 0))
    assert set(found.of("a")) == {0.1}
    assert len(found.taken) == 9
    assert [block.rejected for block in found.rejected] == ["throttled: hardware thermal slowdown"] * 3
    always = measure_blocks("", {"a": lambda: Sample(0.2, 0.2, hot)}, {"a": 1}, Effort(0, 3, 9, 0))
    assert not always.taken
    assert len(always.rejected) < 20


class FakeNvml:
    """What nvidia-ml-py offers, for one device."""

    NVML_CLOCK_SM = 1
    NVML_TEMPERATURE_GPU = 0

    def __init__(self, bits: int) -> None:
        self.bits = bits

    def nvmlInit(self) -> None:  # noqa: N802
        return None

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        assert uuid == "GPU-1"
        return uuid

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: str) -> int:  # noqa: N802
        return self.bits

    def nvmlDeviceGetClockInfo(self, handle: str, kind: int) -> int:  # noqa: N802
        return 1755

    def nvmlDeviceGetTemperature(self, handle: str, kind: int) -> int:  # noqa: N802
        return 64


def test_sensors_tell_throttling_from_a_power_cap() -> None:
    assert NvmlSensors(FakeNvml(0x04), "GPU-1").read() == Reading(1755, 64, power_capped=True)
    hot = NvmlSensors(FakeNvml(0x40 | 0x20), "GPU-1").read()
    assert hot is not None
    assert hot.throttled == "software thermal slowdown, hardware thermal slowdown"
    sensors, why_not = sensors_of(CPU)
    assert sensors.read() is None
    assert why_not


def test_warm_up_ends_when_times_no_longer_drift() -> None:
    falling = iter([1.0 * 0.9**i for i in range(20)] + [0.1 + 0.001 * (i % 3) for i in range(200)])
    found = warmup.warm_up(lambda: next(falling), Cap(1e9))
    assert found.settled
    assert 20 <= found.samples <= 30
    steady = random.Random(0)
    assert warmup.warm_up(lambda: 1 + 0.01 * steady.random(), Cap(1e9)).samples <= 12


def test_warm_up_that_reaches_its_cap_says_so() -> None:
    falling = iter([1.0 * 0.99**i for i in range(1000)])
    found = warmup.warm_up(lambda: next(falling), Cap(10.0))
    assert not found.settled
    assert 10 <= found.seconds < 11.1


def test_trend_has_the_level_it_says() -> None:
    draw = random.Random(1)
    alarms = sum(warmup.trend([draw.random() for _ in range(8)]) <= 0.2 for _ in range(2000))
    assert 200 < alarms <= 440
    assert warmup.trend([5, 4, 3, 2, 1]) == pytest.approx(2 / 120)
    assert warmup.trend([1, 1, 1, 1, 1]) == 1


def test_groups_are_of_one_mode_precision_and_regime() -> None:
    cells = [
        cell(m, mode=mode, regime=r) for m in "ab" for mode in ("infer", "train") for r in ("", "latency")
    ]
    assert [len(g) for g in groups(cells)] == [2, 2, 2, 2]


def test_a_group_goes_on_from_its_journal_and_tells_every_new_block(tmp_path: Path) -> None:
    world = World(noise=0.02)
    fakes = {name: Fake(world) for name in ("baseline", "other")}

    def run(blocks: int) -> dict[str, Any]:
        group = Group(
            [cell(n) for n in fakes], "baseline", Effort(1, blocks, blocks, 0), tmp_path / "b.jsonl"
        )
        outcomes = measure(group, lambda c: fakes[c.mechanism], QuietProgress())
        return {c.mechanism: found[0] for c, found in outcomes}  # type: ignore[index]

    first = run(8)
    second = run(12)
    assert second["other"].samples[:8] == first["other"].samples
    assert len(second["other"].samples) == 12
    assert second["other"].details["group"] == first["other"].details["group"]
    lines = [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()]
    assert len(lines) == 12
    assert lines[0]["host"].keys() == lines[0]["seconds"].keys()


def test_a_journal_from_before_host_times_still_counts(tmp_path: Path) -> None:
    world = World()
    group = Group([cell("baseline"), cell("other")], "baseline", Effort(1, 4, 4, 0), tmp_path / "b.jsonl")
    keys = [c.key() for c in group.cells]
    store.append(group.journal, [Block(group=group.tag(), seconds=dict.fromkeys(keys, 0.5))])
    outcomes = measure(group, lambda c: Fake(world), QuietProgress())
    assert all(len(found[0].samples) == 4 for _, found in outcomes)  # type: ignore[index]


def test_records_of_a_group_are_aligned_and_name_their_baseline(tmp_path: Path) -> None:
    world = World(noise=0.02)
    fakes = {"baseline": Fake(world), "fast": Fake(world, 0.08), "same": Fake(world)}
    group = Group([cell(n) for n in fakes], "baseline", Effort(1, 30, 30, 0), tmp_path / "b.jsonl")
    found = {c.mechanism: m[0] for c, m in measure(group, lambda c: fakes[c.mechanism], QuietProgress())}  # type: ignore[index]
    assert {m.details["group"] for m in found.values()} == {group.tag()}
    assert found["baseline"].details["verdict"] == "baseline"
    fast = found["fast"].details
    assert fast["baseline"] == "baseline"
    assert fast["ratio_low"] < 1.25 < fast["ratio_high"]
    assert fast["verdict"] == "faster"
    assert found["same"].details["verdict"] == "cannot tell"
    assert found["fast"].value == pytest.approx(sorted(found["fast"].samples)[15], rel=0.02)


@dataclass
class Lives:
    """Opens candidates whose speed differs from one process to the next, as where code and data lie does."""

    world: World
    between: float = 0.02
    begun: int = 0
    slower: dict[str, float] = field(default_factory=dict)

    def open(self, asked: Cell) -> Fake:
        name = asked.mechanism
        self.slower.setdefault(name, math.exp(self.world.draw.gauss(0, self.between)))
        return Fake(self.world, 0.1 * self.slower[name])

    def renew(self) -> None:
        self.begun += 1
        self.slower.clear()


def test_a_group_is_measured_in_several_processes_and_says_which_block_was_in_which(tmp_path: Path) -> None:
    lives = Lives(World(noise=0.002))
    effort = Effort(1, 12, 12, 0, processes=4)
    group = Group(
        [cell("baseline"), cell("other")], "baseline", effort, tmp_path / "b.jsonl", False, lives.renew
    )
    found = {c.mechanism: m[0] for c, m in measure(group, lives.open, QuietProgress())}  # type: ignore[index]
    details = found["other"].details
    assert lives.begun == 3
    assert details["process_of_block"] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert (details["interval"], details["processes"], details["margin"]) == ("processes", 4, 0.0)
    assert details["ratio_low"] < 1 < details["ratio_high"]
    lines = (tmp_path / "b.jsonl").read_text().splitlines()
    assert [json.loads(line)["process"] for line in lines] == details["process_of_block"]


def test_what_an_interrupted_run_left_counts_and_its_processes_are_not_begun_again(tmp_path: Path) -> None:
    def run(processes: int, lives: Lives) -> list[int]:
        effort = Effort(1, 2 * processes, 2 * processes, 0, processes=processes)
        group = Group([cell("a"), cell("b")], "a", effort, tmp_path / "b.jsonl", False, lives.renew)
        return measure(group, lives.open, QuietProgress())[0][1][0].details["process_of_block"]  # type: ignore[index]

    assert run(2, Lives(World())) == [0, 0, 1, 1]
    later = Lives(World())
    assert run(4, later) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert later.begun == 1


def test_a_candidate_that_fails_in_a_later_process_is_lost_and_the_others_go_on(tmp_path: Path) -> None:
    world, opened = World(), []

    def open_candidate(asked: Cell) -> Fake:
        opened.append(asked.mechanism)
        return Fake(world, fails_at=2 if opened.count("bad") == 2 and asked.mechanism == "bad" else None)

    group = Group(
        [cell(n) for n in ("a", "bad", "b")], "a", Effort(1, 9, 9, 0, processes=3), tmp_path / "b.jsonl"
    )
    found = {c.mechanism: m for c, m in measure(group, open_candidate, QuietProgress())}
    assert isinstance(found["bad"], RuntimeError)
    assert opened.count("bad") == 2
    assert opened.count("b") == 3
    assert found["b"][0].details["processes"] == 3  # type: ignore[index]


@pytest.mark.parametrize("run", range(4))
def test_who_is_made_first_is_made_last_in_the_next_process(tmp_path: Path, run: int) -> None:
    """What is made first is slower here by 2 %, as on a real machine: the mean stays, the interval knows."""
    random.seed(run)
    world, made = World(noise=0.002), list[str]()

    def open_candidate(asked: Cell) -> Fake:
        made.append(asked.mechanism)
        return Fake(world, 0.1 * (1.02 if len(made) % 2 else 1.0))

    group = Group([cell("a"), cell("b")], "a", Effort(1, 18, 18, 0, processes=6), tmp_path / "b.jsonl")
    found = {c.mechanism: m[0] for c, m in measure(group, open_candidate, QuietProgress())}  # type: ignore[index]
    details = found["b"].details
    assert details["ratio"] == pytest.approx(1, abs=0.004)
    assert details["ratio_low"] < 0.99 < 1.01 < details["ratio_high"]
    orders = [made[i : i + 2] for i in range(0, len(made), 2)]
    assert len(orders) == 6
    assert all(orders[i] == orders[i - 1][::-1] for i in (1, 3, 5))


@pytest.mark.parametrize("ratio", [1.0, 1.05])
def test_intervals_of_several_processes_hold_across_processes(tmp_path: Path, ratio: float) -> None:
    """Forty runs of a known ratio, of copies that differ by 1 % from process to process."""
    missed = 0
    for run in range(40):
        lives = Lives(World(noise=0.01, draw=random.Random(f"{ratio} {run}")), between=0.01)

        def open_candidate(asked: Cell, lives: Lives = lives) -> Fake:
            made = lives.open(asked)
            made.step_s /= ratio if asked.mechanism == "other" else 1
            return made

        effort = Effort(0, 18, 60, 1e9, half_width=0.01, processes=6)
        group = Group([cell("a"), cell("other")], "a", effort, tmp_path / str(run), False, lives.renew)
        outcomes = {c.mechanism: m[0] for c, m in measure(group, open_candidate, QuietProgress())}  # type: ignore[index]
        details = outcomes["other"].details
        missed += not details["ratio_low"] <= ratio <= details["ratio_high"]
        assert details["ratio_high"] / details["ratio_low"] < 1.12
    assert missed <= 5  # 2 expected


def test_without_a_baseline_there_is_no_verdict(tmp_path: Path) -> None:
    world = World()
    broken = Fake(world, fails_at=2)
    fakes = {"baseline": broken, "other": Fake(world)}
    group = Group([cell(n) for n in fakes], "baseline", Effort(1, 4, 4, 0), tmp_path / "b.jsonl")
    found = {c.mechanism: m for c, m in measure(group, lambda c: fakes[c.mechanism], QuietProgress())}
    assert isinstance(found["baseline"], RuntimeError)
    assert found["other"][0].details["baseline"] is None  # type: ignore[index]


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
@pytest.mark.parametrize(
    "effort", [Effort(0, 3, 3, 0), Effort(0, 15, 400, 1e9, half_width=0.01)], ids=["few", "many"]
)
def test_a_model_is_told_from_itself_in_at_most_five_of_a_hundred_runs(world: Any, effort: Effort) -> None:
    runs = list(simulated(world, effort, 200))
    assert sum(not run.low <= 1 <= run.high for run in runs) <= 20  # 10 expected
    told = simulated(world, Effort(0, 60, 60, 0), 20, ratio=1.1)
    assert sum(statistics.verdict(run) == "faster" for run in told) >= 15  # and a real difference is seen


def test_the_record_says_how_much_of_the_time_was_the_harness_s_own(tmp_path: Path) -> None:
    copies = [cell("timm_swin", preset=str(i)) for i in range(2)]
    group = Group(copies, "timm_swin", Effort(0.2, 4, 4, 0, half_width=0), tmp_path / "b.jsonl")
    outcomes = measure(group, lambda c: Session(c, CPU), QuietProgress())
    assert all(0 < found[0].details["harness_share"] < 1 for _, found in outcomes)  # type: ignore[index]


@pytest.mark.gpu
def test_clock_on_a_gpu_waits_for_the_device() -> None:
    a = torch.randn(4096, 4096, device="cuda")
    timer = device_clock(torch.device("cuda"))
    timer(lambda: a @ a, 3)
    few, many = timer(lambda: a @ a, 2), timer(lambda: a @ a, 40)
    assert many.device_s > 5 * few.device_s
    assert clock.fault([many]) == ""
