"""The ablation table: mechanisms in one layout, measured columns and published ones. Needs no torch.

Numbers measured under different conditions never share a column: each column shows the conditions of its
newest records, which the notes below the table state, and the rest is counted there.
"""

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import pandas as pd

from attnbench import baselines, certificates, metrics
from attnbench.errors import AttnbenchError, UnknownNameError
from attnbench.published import Figure, of_mechanisms
from attnbench.record import Cell, Measurement
from attnbench.rungs import AUTHORS, on_rung
from attnbench.tables.measured import add_measured, column_of
from attnbench.tables.probe_columns import add_probes
from attnbench.tables.render import Column, Table

Value = TypeVar("Value", str, int)
Certified = Callable[[str, str, Mapping[str, Any]], bool]


def ablation(
    records: Sequence[Measurement],
    *,
    layout: str | None = None,
    resolution: int | None = None,
    device: str | None = None,
    rung: str = AUTHORS,
    also: Sequence[str] = (),
    certified: Certified | None = None,
) -> Table:
    """The ablation table of attention mechanisms, after BiFormer's Table 5.

    Args:
        records: measurements, oldest first.
        layout, resolution, device: which to show; by default the layout with most to show and the resolution
            with most in it, of equals the newer, and the device of each column's newest record.
        rung: of the isolation ladder; records of other rungs are left out, unless it is ``authors``.
        also: metrics to show that have no column unless asked for (:class:`~attnbench.metrics.Metric.apart`).
        certified: whether a source, given by name, digest and options, passed ``attnbench check``.

    Returns:
        One row per mechanism; published accuracy (ImageNet-1K top-1, ADE20K mIoU) in the last columns.

    Raises:
        AttnbenchError: no record fits.
    """
    if rung != AUTHORS:
        records = on_rung(records, rung)
    everything, hidden = records, {n for n in metrics.names() if metrics.get(n).apart} - {*also}
    records = [m for m in records if m.cell.metric not in hidden]
    elsewhere = {name for name in metrics.names() if metrics.get(name).own_layout}
    static = [m for m in records if m.cell.metric not in elsewhere and column_of(m)] or list(records)
    layouts = {m.cell.layout for m in static}
    if layout is not None and layout not in layouts:
        raise UnknownNameError("layout among the records", layout, layouts)
    layout = layout or _fullest(static, lambda cell: cell.layout)
    chosen = [m for m in records if m.cell.metric in elsewhere or m.cell.layout == layout]
    in_layout = [m for m in chosen if m.cell.metric not in elsewhere]
    size = resolution or _fullest(in_layout, lambda cell: cell.resolution)
    chosen = [m for m in chosen if m.cell.metric in elsewhere or m.cell.resolution == size]
    if device is not None:
        chosen = [m for m in chosen if m.cell.device in ("meta", device)]
    if not chosen:
        raise AttnbenchError("no record fits; run 'attnbench run' first, or ask for other conditions")
    title = f"Attention in {layout}, {size} × {size} px"
    if rung != AUTHORS:
        title += f", rung {rung}; published accuracy is of the authors' models"
    table = Table([], pd.DataFrame(), title=title, layout=layout, resolution=size)
    add_measured(table, chosen, lambda cell: cell.row, _table_5_order)
    add_probes(table, everything, lambda cell: cell.row)
    _add_published(table, sizes=rung == AUTHORS)
    _add_certified(table, certified or _certified)
    return table


def published(metric: str) -> dict[str, Figure]:
    """Published figures of mechanisms by name, for ``top1``, ``miou``, ``params`` or ``macs``."""
    return of_mechanisms(metric)


def _fullest(records: Sequence[Measurement], of: Callable[[Cell], Value]) -> Value | None:
    """What most cells have in common, each counted once; of equals what the newest record has."""
    cells = {(of(m.cell), m.cell.row, m.name, m.cell.mode, m.cell.precision) for m in records}
    counts = Counter(key[0] for key in cells)
    newest_first = dict.fromkeys(of(m.cell) for m in reversed(records))
    return max(newest_first, key=lambda value: counts[value], default=None)


def _add_published(table: Table, sizes: bool) -> None:
    """Published columns; a measured figure that does not round to the published one gets the reason why."""
    if (table.layout, table.resolution) != PUBLISHED_IN:
        return
    of_layout = sizes and "parameters" in table.raw
    for name, (metric, heading, measured, scale) in PUBLISHED_COLUMNS.items():
        if measured and not (of_layout and measured in table.raw):
            continue
        rows = published(metric)
        column = Column(name, f"Published {heading}", 1, -1 if measured else 1)
        values = [rows[row].number if row in rows else None for row in table.raw.index]
        table.raw[column.name] = pd.array(values, dtype="Float64")
        table.columns.append(column)
        for row in table.raw.index.intersection(list(rows)):
            figure = table.figures[row, column.name] = rows[row]
            value = table.value(row, measured) if measured else None
            if value is not None and not figure.is_printed_of(value / scale):
                why = figure.note or "no reason is known"
                table.mark(row, column.name, f"{figure.table} prints {figure.value}: {why}.")
    table.notes.append(
        "Published: accuracy from BiFormer Table 5 (arXiv 2303.08810), parameters and MACs of the authors' "
        "models in this layout; sources in results/published.csv. Not measured by attnbench."
    )


PUBLISHED_IN = ("swin_t", 224)
"""Layout and resolution that the papers' figures belong to."""
PUBLISHED_COLUMNS = {
    "published_params": ("params", "params (M)", "parameters", 1e6),
    "published_macs": ("macs", "MACs (G)", "macs", 1e9),
    "published_top1": ("top1", "IN-1K top-1 (%)", "", 1),
    "published_miou": ("miou", "ADE20K mIoU (%)", "", 1),
}
"""Metric of the figures, heading, the measured column beside it, and what that is divided by."""


def _certified(name: str, digest: str, options: Mapping[str, Any]) -> bool:
    return certificates.is_valid(name, digest, options=options)


def _add_certified(table: Table, certified: Certified) -> None:
    """A column for a CSV, and a mark on each row whose sources have not all passed with its options."""
    known: dict[tuple[str, str, str], bool] = {}
    valid = dict.fromkeys(table.raw.index, True)
    for (row, _), m in table.measured.items():
        if m.cell.metric in metrics.names() and metrics.get(m.cell.metric).apart:
            continue  # of a time and a source of its own; its record says whether that had one
        source = (m.cell.mechanism, m.cell.source, str(m.cell.options))
        if source not in known:
            known[source] = certified(m.cell.mechanism, m.cell.source, m.cell.options)
        valid[row] &= known[source]
    table.raw["certified"] = pd.array(list(valid.values()), dtype="boolean")
    note = "Uncertified: 'attnbench check' has not passed for this source and these options."
    for row in valid:
        if not valid[row] and not baselines.is_baseline(row):
            table.mark(row, "mechanism", note)


def _table_5_order(row: str) -> tuple[int, str]:
    known, name = _table_5_places(), row.partition("[")[0]
    return (known.get(name, len(known)), row)


@functools.cache
def _table_5_places() -> dict[str, int]:
    return {name: place for place, name in enumerate(published("top1"))}
