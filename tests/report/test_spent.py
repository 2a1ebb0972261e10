"""Where the time goes, in the report: numbers of the records, quickest first, and "cannot tell" said."""

from typing import Any

import pytest

from attnbench.record import Cell, Measurement
from attnbench.tables.time_spent import spent

pytest.importorskip("altair")
pytest.importorskip("vl_convert")

from attnbench.report.page import page

GROUPS = {
    "attention core": 0.3,
    "projections": 0.2,
    "data movement": 0.1,
    "other layers": 0.3,
    "rest of the model": 0.1,
}


def measured(
    mechanism: str, step_s: float, verdict: str, times: list[float] | None, **facts: Any
) -> Measurement:
    """A record as the metric makes it."""
    cell = Cell(
        mechanism=mechanism, layout="swin_t", metric="explain", mode="infer", precision="fp32",
        resolution=224, batch_size=1, device="cpu", machine="here", torch="2.14.1",
    )  # fmt: skip
    work = {"half_width": 0.01, "macs": 10**9, "moved": 10**8, "compulsory": 10**7, "floor_s": 0.01}
    groups = {name: work | {"share": share, "seconds": share * step_s} for name, share in GROUPS.items()}
    groups["attention"] = work | {"share": 0.6, "seconds": 0.6 * step_s}
    details = {
        "step_s": step_s, "verdict": verdict, "groups": groups, "diagnosis": f"{mechanism} is explained.",
        "ceilings": {"flops_per_s": 2e11, "bytes_per_s": 1.6e10}, "rounds": 5,
    } | ({} if times is None else {"times_as_long": times, "baseline": "timm_swin"}) | facts  # fmt: skip
    return Measurement.of(cell, "attention_time", 0.6 * step_s, "s", details=details)


RECORDS = [
    measured("full", 0.15, "slower", [1.36, 1.32, 1.39]),
    measured("bra", 0.5, "slower", [4.5, 4.4, 4.6]),
    measured("timm_swin", 0.11, "baseline", None),
    measured("bra", 0.1, "cannot tell", [0.98, 0.9, 1.05]),  # measured anew: the newest counts
]


def test_the_newest_record_of_each_is_shown_the_quickest_step_first() -> None:
    [found] = spent(RECORDS, "swin_t").values()
    assert [one.row for one in found] == ["bra", "timm_swin", "full"]
    assert [one.beside for one in found] == ["0.98 [0.90, 1.05] =", "1", "1.36 [1.32, 1.39] ▼"]
    own = found[0]
    assert sum(part.seconds for part in own.parts.values()) == pytest.approx(own.step_s)
    assert own.core.intensity == pytest.approx(20)
    assert own.core.flops_per_s == pytest.approx(2e9 / 0.03)
    assert own.core.of_roof == pytest.approx(0.01 / 0.03)
    assert spent(RECORDS, "biformer_stl") == {}


def test_other_conditions_are_another_table() -> None:
    other = RECORDS[0].model_copy(update={"cell": RECORDS[0].cell.model_copy(update={"precision": "amp"})})
    assert len(spent([*RECORDS, other], "swin_t")) == 2


def test_the_report_shows_bars_roofline_and_the_reason() -> None:
    counted = Cell(mechanism="bra", layout="swin_t", metric="params", resolution=224, device="meta")
    text = page([Measurement.of(counted, "parameters", 28_380_000, "parameters"), *RECORDS], layout="swin_t")
    assert 'id="time"' in text
    for shown in (
        "0.98 [0.90, 1.05] =",
        "30.0 (30 ± 1 %)",
        "20.0",
        "33%",
        "bra is explained.",
        "200 GFLOP/s",
    ):
        assert shown in text


def test_a_failed_cell_is_no_row() -> None:
    failed = RECORDS[0].model_copy(update={"status": "failed", "value": None, "details": {}})
    assert spent([failed], "swin_t") == {}
