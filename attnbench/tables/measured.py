"""The measured columns of a table: the newest value of each cell, one set of conditions per column."""

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from attnbench import metrics
from attnbench.baselines import is_baseline
from attnbench.record import Cell, Measurement
from attnbench.tables.conditions import conditions
from attnbench.tables.render import Column, Table
from attnbench.tables.speed import WITHHELD, add_speed, withhold_unequal

Row = Callable[[Cell], str | None]
"""The row of a table that a cell belongs to, or ``None``."""


def column_of(m: Measurement) -> Column | None:
    """The column that a measurement belongs to; ``None`` for one of a metric that is not loaded now."""
    cell = m.cell
    return _column(cell.metric, m.name, cell.mode, cell.precision, cell.regime, cell.layout)


@functools.cache
def _column(metric: str, name: str, mode: str, precision: str, regime: str, layout: str) -> Column | None:
    found = metrics.find(metric, name)
    if found is None:
        return None
    of, value = found
    layout = layout if of.own_layout else ""
    return Column.of_value(metric, value, mode=mode, precision=precision, regime=regime, layout=layout)


def setting_columns(mode: str, precision: str) -> list[Column]:
    """The columns of memory and throughput in one setting, whether anything was measured or not."""
    found = (metrics.get(name) for name in ("memory", "throughput"))
    return [Column.of_value(of.name, of.values[0], mode=mode, precision=precision) for of in found]


def _rank(column: Column) -> tuple[Any, ...]:
    """Where a column stands among the others."""
    of = metrics.get(column.metric)
    precision = {"fp32": "0"}.get(column.precision, "1")
    value = [value.name for value in of.values].index(column.value.name) if column.value else 0
    return (of.order, of.name, value, column.regime, column.mode, precision, column.name)


def add_measured(
    table: Table, records: Sequence[Measurement], row_of: Row, order: Callable[[str], tuple]
) -> None:
    """Fill a table's frame: one row per row of the records, columns for all that they hold.

    Args:
        table: without columns; gets frame, columns, marks, notes and the measurements behind its cells.
        records: oldest first.
        row_of: the row of a cell.
        order: key to sort rows by.
    """
    by_column: dict[Column, list[tuple[str, Measurement]]] = {}
    for m in records:
        row, column = row_of(m.cell), column_of(m)
        if row is not None and column is not None:
            by_column.setdefault(column, []).append((row, m))
    table.columns = sorted(by_column, key=_rank)
    seen: Counter[str] = Counter()
    left_out = sum(_fill(table, column, by_column[column], seen) for column in table.columns)
    rows = sorted({row for row, _ in table.measured} | {row for row, _ in table.marks}, key=order)
    _build_frame(table, rows)
    table.notes += [f"Conditions: {text}." for text in seen if text]
    if left_out:
        table.notes.append(f"{left_out} older records under other conditions are not shown.")
    add_speed(table)


def _fill(table: Table, column: Column, records: list[tuple[str, Measurement]], seen: Counter[str]) -> int:
    """Choose a column's measurements, those under the conditions of the newest; how many are left out."""
    asked = next((m.cell.impl for _, m in reversed(records) if not is_baseline(m.cell.mechanism)), "")
    of_records = [conditions(m, asked if is_baseline(m.cell.mechanism) else "") for _, m in records]
    newest, left_out = of_records[-1], 0
    other: dict[str, str] = {}
    for (row, m), text in zip(records, of_records, strict=True):
        if text == newest:
            table.measured[row, column.name] = m
        else:
            left_out += 1
            other[row] = text
    seen[newest] += 1
    for row, text in other.items():
        if (row, column.name) not in table.measured:
            table.mark(row, column.name, f"only under other conditions: {text}")
    return left_out


def _build_frame(table: Table, rows: Sequence[str]) -> None:
    frame = pd.DataFrame(index=pd.Index(rows, name="mechanism"))
    by_name = {column.name: column for column in table.columns}
    for (row, name), m in table.measured.items():
        table.measured[row, name] = withhold_unequal(m)
        _remark(table, row, by_name[name], table.measured[row, name])
    found = {
        column.name: [table.measured.get((row, column.name)) for row in rows] for column in table.columns
    }
    for column in table.columns:
        cells = [m.value if m and m.status == "ok" else None for m in found[column.name]]
        whole = all(isinstance(value, int) for value in cells if value is not None)
        frame[column.name] = pd.array(cells, dtype="Int64" if whole else "Float64")
        if column.value is not None and column.value.repeats:
            frame[f"{column.value.repeats}_lower_bound"] = _unknown_operators(table, rows)
    ran: dict[str, set[str]] = {}
    for (row, _), m in table.measured.items():
        of = metrics.find(m.cell.metric, m.name)
        if m.status == "ok" and m.implementation and of is not None and of[0].on_machine:
            ran.setdefault(row, set()).add(m.implementation)
    if ran:
        table.columns.append(Column("implementation", "Implementation"))
        frame["implementation"] = [" ".join(sorted(ran.get(row, ()))) or None for row in rows]
    table.raw = frame


def _remark(table: Table, row: str, column: Column, m: Measurement) -> None:
    """Note that a cell failed, that a count is a lower bound, or that a formula stands beside one."""
    if m.details.get("lower_bound"):
        table.at_least[row, column.name] = m.details["uncounted"]
        if not column.csv_only:
            names = ", ".join(m.details["uncounted"])
            table.mark(row, column.name, f"lower bound: no formula is known for {names}")
    elif m.details.get("unconfirmed") and not column.csv_only:
        table.mark(row, column.name, "by the mechanism's formula alone; the count is a lower bound")
    if m.cell.regime == "largest" and m.status == "ok":
        table.mark(row, column.name, f"batch {m.details.get('batch_size', 'not recorded')}")
    if m.details.get(WITHHELD):
        table.mark(row, column.name, m.details[WITHHELD])
    if m.status != "ok" and (m.value is not None or not column.csv_only):
        table.mark(row, column.name, f"{m.status.replace('_', ' ')}: {m.reason}")


def _unknown_operators(table: Table, rows: Sequence[str]) -> list[str | None]:
    """Operators that make counts of a row lower bounds, separated by spaces."""
    known: dict[str, set[str]] = {}
    for (row, _), operators in table.at_least.items():
        known.setdefault(row, set()).update(operators)
    return [" ".join(sorted(known.get(row, ()))) or None for row in rows]
