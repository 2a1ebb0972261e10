"""Two sets of records: what counts as worse, what is paired with what, which conditions are named."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from documents import cells

from attnbench import AttnbenchError, statistics, store
from attnbench.record import Cell, Measurement
from attnbench.regressions import Row, compare, conditions

ENVIRONMENT = {"threads": 2, "libraries": {"torch": "2.15.0"}, "commit": "a", "tf32_matmul": False}


def record(name: str, value: Any, mechanism: str = "full", **fields: Any) -> Measurement:
    metric = {"parameters": "params", "peak_memory": "memory", "top1": "accuracy"}.get(name, name)
    static = metric in ("params", "macs")
    where = {"device": "meta"} if static else {"machine": fields.pop("machine", "m"), "mode": "infer"}
    cell = Cell(mechanism=mechanism, layout="swin_t", metric=metric, resolution=224, **where)
    return Measurement.of(cell, name, value, "", **({"environment": ENVIRONMENT} | fields))


def speeds(mechanism: str, samples: Any, verdict: str = "", **fields: Any) -> Measurement:
    values = [float(x) for x in samples]
    details = {"group": "g", "verdict": verdict}
    return record(
        "throughput", float(np.median(values)), mechanism, samples=values, details=details, **fields
    )


def only(rows: list[Row], mechanism: str = "full") -> Row:
    (row,) = (row for row in rows if row.cell.startswith(mechanism))
    return row


CASES = {
    "parameters alike": ("parameters", 10, 10, "same", False),
    "more parameters": ("parameters", 10, 11, "changed", True),
    "fewer parameters": ("parameters", 11, 10, "changed", True),
    "more MACs": ("macs", 10, 11, "more", True),
    "fewer MACs": ("macs", 11, 10, "less", False),
    "memory within rounding": ("peak_memory", 1000, 1009, "same", False),
    "more memory": ("peak_memory", 1000, 1030, "more", True),
    "less memory": ("peak_memory", 1030, 1000, "less", False),
}


@pytest.mark.parametrize("case", CASES)
def test_values(case: str) -> None:
    name, before, after, verdict, worse = CASES[case]
    row = only(compare([record(name, before)], [record(name, after)]))
    assert (row.verdict, row.regression) == (verdict, worse)


@pytest.mark.parametrize(("after", "verdict"), [(88.0, "lower"), (89.5, "same"), (93.0, "higher")])
def test_accuracy_by_the_interval_of_the_first(after: float, verdict: str) -> None:
    details = {"interval_95": [89.0, 92.0]}
    assert only(compare([record("top1", 90.0, details=details)], [record("top1", after)])).verdict == verdict


def test_failures() -> None:
    bad = record("params", None, status="crashed", reason="segmentation fault")
    good = record("parameters", 10)
    assert only(compare([good], [bad])).verdict == "fails now"
    assert only(compare([good], [bad])).regression
    assert only(compare([bad], [good])).verdict == "works now"
    assert only(compare([bad], [bad])).verdict == "fails in both"


def test_speed_relative_to_the_baseline_forgives_a_slower_machine() -> None:
    rng = np.random.default_rng(0)
    noise = rng.lognormal(0, 0.3, (2, 12))  # the machine's, shared by a block

    def run(machine: float, ratio: float, noise: Any) -> list[Measurement]:
        own = rng.lognormal(0, 0.005, (2, 12))
        baseline = speeds("timm_swin", 100 * machine * noise * own[0], "baseline")
        return [speeds("full", 100 * machine * ratio * noise * own[1]), baseline]

    slower_machine = compare(run(1.0, 1.2, noise[0]), run(0.5, 1.2, noise[1]))
    assert only(slower_machine).verdict == "cannot tell"
    assert only(slower_machine).basis == "relative to timm_swin"
    assert only(slower_machine, "timm_swin").verdict == "baseline: slower"
    assert not any(row.regression for row in slower_machine)
    slower_code = compare(run(0.5, 1.2, noise[0]), run(1.0, 1.08, noise[1]))
    assert only(slower_code).verdict == "slower"
    assert only(slower_code).regression
    ratio, low, high = only(slower_code).ratio or (0, 0, 0)
    assert low < 0.9 < high
    assert ratio == pytest.approx(0.9, rel=0.01)


def test_speed_without_a_baseline() -> None:
    rng = np.random.default_rng(1)
    before, after = (rng.lognormal(np.log(mean), 0.01, 10) for mean in (100, 90))
    assert only(compare([speeds("full", before)], [speeds("full", after)])).verdict == "slower"
    few = compare([speeds("full", before[:2])], [speeds("full", after[:2])])
    assert only(few).verdict in ("cannot tell", "slower")
    assert only(compare([speeds("full", [100])], [speeds("full", [1])])).verdict == "cannot tell"


def test_unpaired_interval_covers_what_it_says() -> None:
    rng = np.random.default_rng(2)
    for count in (4, 20):
        inside = 0
        for _ in range(200):
            a, b = rng.lognormal(0, 0.05, count), rng.lognormal(0.1, 0.05, count)
            interval = statistics.unpaired_interval(b, a)
            inside += interval.low < np.exp(0.1) < interval.high
        assert inside >= 180


def test_conditions_that_differ_are_named_and_the_commit_is_not_one() -> None:
    other = {**ENVIRONMENT, "threads": 4, "libraries": {"torch": "2.16.0"}, "commit": "b"}
    rows = compare([record("peak_memory", 10)], [record("peak_memory", 10, environment=other)])
    assert only(rows).differs == ["threads: 2 → 4", "torch: 2.15.0 → 2.16.0"]
    assert conditions(rows)[0] == "threads: 2 → 4 (1 of 1 values)"


def test_machines_are_not_mixed() -> None:
    one, other, third = (record("peak_memory", 10, machine=name) for name in ("a", "b", "c"))
    assert only(compare([one], [other])).differs == ["machine: a → b"]
    both = compare([one, other], [record("peak_memory", 99, machine="b")])
    assert sorted(row.verdict for row in both) == ["more", "only in A"]
    with pytest.raises(AttnbenchError, match="give the file of one machine"):
        compare([one, other], [third])
    with pytest.raises(AttnbenchError, match="no cell in common"):
        compare([one], [record("parameters", 10)])


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-m", "attnbench", "compare", *arguments]
    return subprocess.run(call, capture_output=True, text=True, check=False)


def test_the_command_exits_with_1_on_a_regression(tmp_path: Path) -> None:
    for name, value in (("a", 10), ("b", 11)):
        store.append(tmp_path / name / "m.jsonl", [record("macs", value), record("parameters", 5)])
    a, b = str(tmp_path / "a"), str(tmp_path / "b" / "m.jsonl")
    worse = command(a, b)
    assert worse.returncode == 1
    row = next(line for line in worse.stdout.splitlines() if line.startswith("| full"))
    assert cells(row) == ["full, swin_t 224 px", "macs", "10", "11", "1.100", "**more**"]
    assert "parameters" not in worse.stdout
    assert command(b, a).returncode == 0
    found = json.loads(command(a, a, "--format", "json").stdout)
    assert [row["verdict"] for row in found["rows"]] == ["same", "same"]
    table = command(a, b, "--format", "csv").stdout.splitlines()
    assert table[0].startswith("cell,value,unit,a,b,ratio")
    assert len(table) == 3
    for arguments, message in (
        ((a, "nowhere"), "no file or folder"),
        ((a, b, "--margin", "x"), "'--margin'"),
    ):
        wrong = command(*arguments)
        assert wrong.returncode == 2
        assert message in wrong.stderr
