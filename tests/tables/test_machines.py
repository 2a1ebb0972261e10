"""Several machines stand side by side: counts once, each measured column once a machine, nothing mixed."""

from typing import Any

import pytest

from attnbench import AttnbenchError
from attnbench.record import Cell, Measurement
from attnbench.tables import render
from attnbench.tables.machines import machines


def measured(machine: str, mechanism: str, value: float | None, **fields: Any) -> Measurement:
    cell = Cell(
        mechanism=mechanism, layout="swin_t", metric="memory", mode="infer", precision="fp32", resolution=224,
        machine=machine, device="cpu", torch="2.15.0",
    )  # fmt: skip
    return Measurement.of(cell, "peak_memory", value, "bytes", implementation="eager", **fields)


def counted(mechanism: str, value: int) -> Measurement:
    cell = Cell(mechanism=mechanism, layout="swin_t", metric="params", resolution=224, device="meta")
    return Measurement.of(cell, "parameters", value, "parameters")


def records() -> list[Measurement]:
    return [
        counted("bra", 28_000_000),
        measured("laptop", "bra", 100 * 2**20),
        measured("laptop", "full", 300 * 2**20),
        measured("server", "bra", 90 * 2**20),
        measured("server", "full", None, status="out_of_memory", reason="no room left"),
    ]


def test_each_machine_has_its_own_column_and_conditions() -> None:
    table = machines(records())
    assert [c.name for c in table.columns][:3] == [
        "parameters", "peak_memory_infer_fp32_bytes@laptop", "peak_memory_infer_fp32_bytes@server",
    ]  # fmt: skip
    assert table.value("bra", "peak_memory_infer_fp32_bytes@laptop") == 100 * 2**20
    assert table.value("bra", "peak_memory_infer_fp32_bytes@server") == 90 * 2**20
    assert table.value("bra", "parameters") == 28_000_000
    assert table.value("full", "peak_memory_infer_fp32_bytes@server") is None
    text = render.render(table, "md")
    assert "Memory infer FP32 (MiB) · laptop" in text
    assert "server: out of memory: no room left" in text
    assert sum("Conditions: memory at batch 1" in note for note in table.notes) == 2
    assert "2 machines" in text.splitlines()[0]


def test_a_machine_is_not_changed_by_another() -> None:
    alone, both = machines(records()[:3]), machines(records())
    name = "peak_memory_infer_fp32_bytes@laptop"
    assert list(alone.raw[name].dropna()) == list(both.raw[name].dropna())


def test_counts_alone_are_of_no_machine() -> None:
    with pytest.raises(AttnbenchError, match="no record is of a machine"):
        machines([counted("bra", 1)])
