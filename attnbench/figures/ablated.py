"""The figure of an ablation grid: a panel per value, the first axis along x, a line per rest of the axes."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attnbench.figures.files import new_figure, save_figure, styled
from attnbench.figures.style import COLOURS_IN_ORDER
from attnbench.grids import Grid
from attnbench.tables.ablated import SEED, shown_axes
from attnbench.tables.render import Column, Table


def plot(grid: Grid, table: Table, path: Path) -> None:
    """Draw a grid's table; see :func:`draw`.

    Raises:
        AttnbenchError: the file cannot be written.
    """
    save_figure(draw(grid, table), path)


@styled
def draw(grid: Grid, table: Table) -> Any:
    """The figure of a grid's table.

    Where there are several seeds, bars show their standard deviation. A cell without a value is a cross at
    the foot of its panel, and the reasons stand below the panels.
    """
    columns = _drawn(table)
    reasons = _reasons(table, columns)
    height = 3.2 + 0.18 * len(reasons)
    figure, panels = new_figure(
        max(5.0, 3.6 * len(columns)), height, ncols=max(1, len(columns)), squeeze=False
    )
    figure.suptitle(table.title, fontsize=10)
    axes = panels[0]
    for axis, column in zip(axes, columns, strict=False):
        _panel(axis, grid, table, column)
    handles, labels = axes[0].get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(handles, labels, loc="outside right upper", fontsize=7)
    if reasons:
        figure.supxlabel("\n".join(reasons), fontsize=7, ha="left", x=0.01)
    return figure


def _drawn(table: Table) -> list[Column]:
    """The columns that are drawn: one for each value that tables show, and that repeats no other."""
    return [c for c in table.columns if c.value is not None and not c.csv_only and not c.value.repeats]


def _panel(axis: Any, grid: Grid, table: Table, column: Column) -> None:
    names, places, lines = _lines(grid, table)
    style = "-" if _is_numeric(grid) else ""  # names have no order along which a line would lead
    missing = []
    for number, (label, rows) in enumerate(lines.items()):
        colour = COLOURS_IN_ORDER[number % len(COLOURS_IN_ORDER)]
        values = {x: table.value(row, column.name) for x, row in rows.items()}
        known = {x: value / column.scale for x, value in values.items() if value is not None}
        deviation = f"{column.name}_sd"
        bars = None  # of one seed there is no spread
        if deviation in table.raw:
            bars = [(table.value(rows[x], deviation) or 0) / column.scale for x in known]
        look = {"marker": "o", "linestyle": style, "color": colour}
        axis.errorbar(list(known), list(known.values()), bars, capsize=2, label=label, **look)
        missing += [(x, colour) for x, value in values.items() if value is None]
    for x, colour in missing:
        axis.plot(
            x,
            0.03,
            "x",
            color=colour,
            markersize=8,
            transform=axis.get_xaxis_transform(),
            gid="failed",
        )
    axis.set_xticks(places, [textwrap.fill(name, 12) for name in names], fontsize=7)
    axis.set_ylabel(column.heading, fontsize=8)
    axis.set_xlabel(table.heading, fontsize=8)
    axis.tick_params(labelsize=7)


def _lines(grid: Grid, table: Table) -> tuple[list[str], list[float], dict[str, dict[float, str]]]:
    """Names and places along x, and for each combination of the other axes its rows by place."""
    axes = shown_axes(grid)
    if not axes:
        return [SEED], [0.0], {table.heading: {0.0: str(table.raw.index[0])}}
    numeric = _is_numeric(grid)
    numbers = [value.number for value in axes[0].values]
    places = [float(n) if numeric and n is not None else float(i) for i, n in enumerate(numbers)]
    lines: dict[str, dict[float, str]] = {}
    for row in map(str, table.raw.index):
        first = table.titles[row]
        at = places[[value.label for value in axes[0].values].index(first)]
        rest = ", ".join(f"{axis.name} {table.value(row, axis.name)}" for axis in axes[1:])
        lines.setdefault(rest, {})[at] = row
    return [value.label for value in axes[0].values], places, lines


def _is_numeric(grid: Grid) -> bool:
    """Whether the values of the first axis are numbers, each another."""
    numbers = [value.number for axis in shown_axes(grid)[:1] for value in axis.values]
    return None not in numbers and len(set(numbers)) == len(numbers)


def _reasons(table: Table, columns: Sequence[Column]) -> list[str]:
    """Which cells have no value, and why, as the table's notes say it."""
    found = []
    for column in columns:
        for row in map(str, table.raw.index):
            mark = table.marks.get((row, column.name))
            if mark is not None and table.value(row, column.name) is None:
                text = f"× {row}, {column.heading}: {table.notes[mark - 1]}"
                found.append(textwrap.shorten(text, 150, placeholder=" …"))
    return found
