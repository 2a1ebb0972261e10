"""The table of an ablation grid: a row per combination, seeds drawn together, failures with their reasons."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from attnbench import metrics
from attnbench.grids import Axis, Grid, Point
from attnbench.record import Cell, Measurement
from attnbench.tables.render import Column, Table
from attnbench.tables.speed import WITHHELD, withhold_unequal

SEED = "seed"
Cells = Sequence[Cell]


def ablated(grid: Grid, cells: Sequence[Cells], records: Sequence[Measurement]) -> Table:
    """The table of a grid.

    Args:
        grid: axes and metrics.
        cells: of each of the grid's points, in their order.
        records: measurements, oldest first; those of the cells are taken, the newest of each.

    Returns:
        One row per combination of all axes but the seed, whose values are drawn together: their mean, and
        their standard deviation in a column of its own. A cell without a value has a note with the reason.
    """
    newest = {(m.key, m.name): withhold_unequal(m) for m in records}
    rows: dict[str, list[tuple[Point, Cells]]] = {}
    for point, own in zip(grid.points(), cells, strict=True):
        rows.setdefault(_label(grid, point), []).append((point, own))
    table = Table([], pd.DataFrame(index=pd.Index(list(rows), name="combination")), title=grid.title)
    table.heading, table.titles = _axes(table, grid, rows)
    for metric in grid.metrics:
        _add_metric(table, metric, rows, newest)
    if grid.fixed.label:
        table.notes.append(f"Held: {grid.fixed.label}.")
    return table


def _label(grid: Grid, point: Point) -> str:
    """Names a row: the labels of all axes but the seed."""
    found = [v.label for axis, v in zip(grid.axes, point.values, strict=True) if axis.name != SEED]
    return ", ".join(found) or "all seeds"


def shown_axes(grid: Grid) -> list[Axis]:
    """The axes that rows differ in."""
    return [axis for axis in grid.axes if axis.name != SEED]


def _axes(
    table: Table, grid: Grid, rows: Mapping[str, list[tuple[Point, Cells]]]
) -> tuple[str, dict[str, str]]:
    """Add a column for each axis but the first, which is the rows' title; heading and titles of that."""
    places = [place for place, axis in enumerate(grid.axes) if axis.name != SEED]
    if not places:
        return SEED, {}
    for place in places[1:]:
        name = grid.axes[place].name
        table.columns.append(Column(name, name))
        table.raw[name] = [points[0][0].values[place].label for points in rows.values()]
    titles = {label: points[0][0].values[places[0]].label for label, points in rows.items()}
    return grid.axes[places[0]].name, titles


def _add_metric(
    table: Table,
    metric: str,
    rows: Mapping[str, list[tuple[Point, Cells]]],
    newest: Mapping[tuple[str, str], Measurement],
) -> None:
    """Columns of a metric's values, those that no record has left out but the first."""
    of = metrics.get(metric)
    for place, value in enumerate(of.values):
        column = Column(
            name=_plain(value.column.format(suffix="", layout="")).strip("_"),
            heading=_plain(value.heading.format(setting="", layout="")),
            scale=value.scale,
            digits=value.digits,
            csv_only=value.csv_only,
            metric=metric,
            value=value,
        )
        found: list[float | int | None] = []
        spread: list[float | None] = []
        for label, points in rows.items():
            chosen = [cell for _, own in points for cell in own if cell.metric == metric]
            numbers = []
            for cell in {cell.key(): cell for cell in chosen}.values():
                m = _newest(cell, value.name, newest)
                if m is not None and m.status == "ok" and m.value is not None:
                    numbers.append(m.value)
                    table.measured[label, column.name] = m
                elif place == 0:
                    why = _why_not(cell, m or _newest(cell, metric, newest))
                    table.mark(label, column.name, f"{_which(cell, points)}{why}")
            found.append(_mean(numbers))
            spread.append(statistics.stdev(numbers) if len(numbers) > 1 else None)
        if place and all(number is None for number in found):
            continue
        _add(table, column, found, spread)
        if value.paired:
            _add_ratio(table, column)


def _newest(cell: Cell, name: str, newest: Mapping[tuple[str, str], Measurement]) -> Measurement | None:
    """The newest record of a cell's value, under whatever key it was stored."""
    found = [m for key in cell.stored_as() if (m := newest.get((key, name))) is not None]
    return max(found, key=lambda m: m.created, default=None)


def _add_ratio(table: Table, column: Column) -> None:
    """The ratio to the baseline in the same blocks, by which speeds of different groups are compared."""
    found = {row: table.measured.get((row, column.name)) for row in table.raw.index}
    ratios = {row: m.details.get("ratio") for row, m in found.items() if m is not None}
    if any(ratio is not None for ratio in ratios.values()):
        names = sorted(
            {str(m.details["baseline"]) for m in found.values() if m and m.details.get("baseline")}
        )
        own = Column(f"{column.name}_ratio", f"Ratio to {' or '.join(names)}", 1, 3, of=(column.name,))
        table.raw[own.name] = pd.array([ratios.get(row) for row in table.raw.index], dtype="Float64")
        table.columns.append(own)


def _add(
    table: Table, column: Column, found: Sequence[float | int | None], spread: Sequence[float | None]
) -> None:
    whole = all(isinstance(number, int) for number in found if number is not None)
    table.raw[column.name] = pd.array(list(found), dtype="Int64" if whole else "Float64")
    table.columns.append(column)
    if any(spread):
        of_seeds = Column(f"{column.name}_sd", "± sd", column.scale, column.digits + 1, column.csv_only)
        table.raw[of_seeds.name] = pd.array(list(spread), dtype="Float64")
        table.columns.append(of_seeds)


def _mean(numbers: Sequence[float | int]) -> float | int | None:
    """The number itself where there is one, so that a count stays whole."""
    if len(numbers) < 2:
        return numbers[0] if numbers else None
    return statistics.fmean(numbers)


def _why_not(cell: Cell, m: Measurement | None) -> str:
    """Why a cell has no number."""
    if m is None:
        return "not measured yet: the same command goes on"
    if m.details.get(WITHHELD):
        return str(m.details[WITHHELD])
    return f"{m.status.replace('_', ' ')}: {m.reason}"


def _which(cell: Cell, points: Sequence[Any]) -> str:
    """The seed, where a row has several."""
    return f"seed {cell.seed}: " if len(points) > 1 else ""


def _plain(text: str) -> str:
    """A heading or name whose placeholders are empty."""
    return " ".join(text.replace("__", "_").split())
