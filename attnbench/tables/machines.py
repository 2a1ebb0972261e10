"""The ablation table of several machines: counts once, and what was measured side by side. Needs no torch.

Each machine's columns are those that its records alone would have: nothing is compared across machines but
what a reader compares, and each column's conditions are among the notes.
"""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from attnbench import metrics
from attnbench.errors import AttnbenchError
from attnbench.record import Measurement
from attnbench.tables.ablation import ablation
from attnbench.tables.render import Column, Table


def machines(
    records: Sequence[Measurement], *, layout: str | None = None, resolution: int | None = None
) -> Table:
    """One row per mechanism; for each measured column one per machine, in the order of their names.

    Args:
        records: measurements, oldest first.
        layout, resolution: which to show; by default those of the newest record.

    Raises:
        AttnbenchError: no record fits, or none is of a machine.
    """
    whole = ablation(records, layout=layout, resolution=resolution)
    found = {}
    for name in sorted({m.cell.machine for m in records if m.cell.machine}):
        own = [m for m in records if m.cell.machine in ("", name)]
        table = ablation(own, layout=whole.layout, resolution=whole.resolution)
        if any(_is_measured(column) for column in table.columns):
            found[name] = table
    if not found:
        raise AttnbenchError("no record is of a machine: counts are the same everywhere; see table ablation")
    together = Table(
        [],
        pd.DataFrame(index=whole.raw.index),
        title=f"{whole.title}: {len(found)} machines",
        layout=whole.layout,
        resolution=whole.resolution,
        titles=whole.titles,
    )
    for column in whole.columns:
        if column.metric and not _is_measured(column):
            _take(together, whole, column, column, "")
    for column in _measured_columns(list(found.values())):
        for name, table in found.items():
            if column.name in table.raw:
                heading = f"{column.heading} · {name}"
                own_column = replace(column, name=f"{column.name}@{name}", heading=heading)
                _take(together, table, column, own_column, f"{name}: ")
    _add_conditions(together, found)
    return together


def _is_measured(column: Column) -> bool:
    """Whether a column holds what depends on the machine."""
    return bool(column.metric) and metrics.get(column.metric).on_machine


def _measured_columns(tables: Sequence[Table]) -> list[Column]:
    """The measured columns of all tables, each once, with the ratios that are computed from them."""
    found: dict[str, Column] = {}
    for table in tables:
        measured = {column.name for column in table.columns if _is_measured(column)}
        for column in table.columns:
            if column.name in measured or (column.of and set(column.of) <= measured):
                found.setdefault(column.name, column)
    return list(found.values())


def _take(together: Table, table: Table, column: Column, renamed: Column, who: str) -> None:
    """Copy a column with its records and the notes on its cells."""
    together.columns.append(renamed)
    together.raw[renamed.name] = table.raw[column.name].reindex(together.raw.index)
    for row in map(str, table.raw.index):
        if (record := table.measured.get((row, column.name))) is not None:
            together.measured[row, renamed.name] = record
        if (row, column.name) in table.at_least:
            together.at_least[row, renamed.name] = table.at_least[row, column.name]
        if (mark := table.marks.get((row, column.name))) is not None:
            together.mark(row, renamed.name, f"{who}{table.notes[mark - 1]}")


def _add_conditions(together: Table, found: dict[str, Table]) -> None:
    """The notes that are on no cell: conditions, and what was left out."""
    for name, table in found.items():
        marked = set(table.marks.values())
        for number, note in enumerate(table.notes, start=1):
            if number not in marked and note.startswith(("Conditions:", "Ratio")):
                text = f"{name}: {note}" if name not in note else note
                if text not in together.notes:
                    together.notes.append(text)
