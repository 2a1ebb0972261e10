"""A paper's table rebuilt: what we measured, what was printed, and the gap between them."""

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from attnbench import metrics
from attnbench.baselines import BASELINE
from attnbench.configurations import Configuration
from attnbench.record import Cell, Measurement
from attnbench.tables.dense_table import add_miou
from attnbench.tables.measured import add_measured, setting_columns
from attnbench.tables.papers import RESOLUTION, Line, PaperTable
from attnbench.tables.probe_columns import add_probes
from attnbench.tables.render import Column, Table
from attnbench.tables.trained import add_trained

_STATIC = {
    "params": ("params (M)", 2),
    "macs": ("FLOPs (G)", 3),
}
_ACCURACY = {"top1": "IN-1K top-1 (%)", "miou": "ADE20K mIoU (%)"}
_NOT_OURS = "Not a model of attnbench: published figures only."
_PUBLISHED = (
    "Published: as printed, not measured by attnbench; {source}. What the papers call FLOPs are MACs. "
    "Who trained what, and how: --explain ROW COLUMN, or results/published.csv."
)
_OFF = "The measured figure does not round to the printed one, whose note says why."
_OFF_WITHOUT_REASON = "The measured figure does not round to the printed one; no reason is known."
_RELATIVE = "Relative: throughput over that of {title}; published on other hardware, so only this has a gap."


def rebuilt(spec: PaperTable, records: Sequence[Measurement], device: str | None = None) -> Table:
    """A table of a paper, with measured columns beside the published ones.

    Args:
        spec: which table.
        records: measurements, oldest first; those of its rows are taken.
        device: to show; by default that of the newest record of each column.
    """
    lines = spec.lines()
    table = Table([], pd.DataFrame(), title=f"{spec.title}, {RESOLUTION} × {RESOLUTION} px", heading="Model")
    table.resolution, table.titles = RESOLUTION, {line.name: line.title for line in lines}
    rows = {_identity(line.model): line.name for line in lines if line.model}
    swaps = {_identity(line.model): line.name for line in lines if line.model and _is_swap(line.model)}

    def row_of(cell: Cell) -> str | None:
        if cell.metric.endswith("training") or _is_apart(cell):
            return None  # shown in a way of its own
        if cell.resolution != RESOLUTION or (device and cell.device not in ("meta", device)):
            return None
        return rows.get((cell.layout, cell.mechanism, _options(cell.options)))

    places = {line.name: place for place, line in enumerate(lines)}
    add_measured(table, records, row_of, lambda row: (places[row],))
    table.raw = table.raw.reindex(pd.Index(places, name="row"))
    _add_static(table, lines)
    _add_accuracy(table, lines)
    add_miou(table, records, lambda cell: rows.get((cell.layout, cell.mechanism, _options(cell.options))))
    add_probes(table, records, lambda cell: swaps.get(("swin_t", cell.mechanism, _options(cell.options))))
    add_trained(table, records, lambda cell: rows.get((cell.layout, cell.mechanism, _options(cell.options))))
    _add_settings(table, spec, lines)
    _say_what_is_missing(table, spec, lines)
    return table


def commands(spec: PaperTable, names: Sequence[str], metrics: str, out: str = "") -> list[str]:
    """The commands that measure rows of a table: one for all that differ in the mechanism only."""
    together: dict[tuple[str, str], list[str]] = {}
    for line in spec.lines():
        if line.model and line.name in names:
            settings = " ".join(
                f"--set {shlex.quote(f'{key}={json.dumps(value)}')}"
                for key, value in line.model.options.items()
            )
            together.setdefault((line.model.layout, settings), []).append(line.model.mechanism)
    tail = f" --out {shlex.quote(out)}" if out else ""
    return [
        f"attnbench run --layout {layout} --mechanisms {','.join(mechanisms)}"
        f"{' ' if settings else ''}{settings} --metrics {metrics}{tail}"
        for (layout, settings), mechanisms in together.items()
    ]


def _is_apart(cell: Cell) -> bool:
    return cell.metric in metrics.names() and metrics.get(cell.metric).apart


def _identity(model: Configuration) -> tuple[str, str, str]:
    return (model.layout, model.mechanism, _options(model.options))


def _options(options: Mapping[str, Any]) -> str:
    return json.dumps(dict(options), sort_keys=True) if options else "{}"


def _is_swap(model: Configuration) -> bool:
    """Whether what was measured in another layout is of this row: its options do not come from one."""
    return model.layout == "swin_t" and model.mechanism != BASELINE


def _add_static(table: Table, lines: Sequence[Line]) -> None:
    """Parameters and MACs: counted, printed, gap; first of all columns."""
    rest = table.columns
    shown: list[Column] = []
    for metric, (printed, digits) in _STATIC.items():
        column = Column.of_value(metric, metrics.get(metric).values[0])
        name = column.name
        if name not in table.raw:
            table.raw[name] = pd.array([None] * len(table.raw), dtype="Int64")
        shown += [column, *(c for c in rest if c.metric == metric and c.name != name)]
        published = _published(table, lines, f"published_{metric}", f"Published {printed}")
        shown += published
        if published:
            shown.append(_add_gap(table, lines, metric, name, column.scale, digits))
    table.columns = shown + [column for column in rest if column not in shown]


def _published(table: Table, lines: Sequence[Line], name: str, heading: str) -> list[Column]:
    """A column of printed numbers, if the table has any; one with a note refers to it."""
    found = {line.name: line.figures[name] for line in lines if name in line.figures}
    if not found:
        return []
    values = [found[row].value or None if row in found else None for row in table.raw.index]
    table.raw[name] = pd.array(values, dtype="string")
    for row, figure in found.items():
        table.figures[row, name] = figure
        if figure.note:
            table.mark(row, name, figure.note)
    return [Column(name, heading)]


def _add_gap(
    table: Table, lines: Sequence[Line], metric: str, name: str, scale: float, digits: int
) -> Column:
    """Measured less printed; marked where the measured figure does not round to the printed one."""
    of = (name, f"published_{metric}")
    column = Column(f"gap_{metric}", f"Gap {_STATIC[metric][0]}", 1, digits, signed=True, of=of)
    gaps: list[float | None] = []
    for line in lines:
        figure, value = line.figures.get(f"published_{metric}"), table.value(line.name, name)
        if figure is None or figure.number is None or value is None:
            gaps.append(None)
            continue
        gaps.append(value / scale - figure.number)
        if not figure.is_printed_of(value / scale):
            table.mark(line.name, column.name, _OFF if figure.note else _OFF_WITHOUT_REASON)
    table.raw[column.name] = pd.array(gaps, dtype="Float64")
    return column


def _add_accuracy(table: Table, lines: Sequence[Line]) -> None:
    """Published accuracy, and who trained it."""
    for metric, heading in _ACCURACY.items():
        table.columns += _published(table, lines, f"published_{metric}", f"Published {heading}")
    trained = {line.name: f.trained_by for line in lines if (f := line.figures.get("published_top1"))}
    if trained:
        table.raw["trained_by"] = [trained.get(row) for row in table.raw.index]
        table.columns.append(Column("trained_by", "Trained by", of=("published_top1",)))


def _add_settings(table: Table, spec: PaperTable, lines: Sequence[Line]) -> None:
    """Memory and throughput of the settings the paper has, also where nothing is measured yet."""
    known = {column.name for column in table.columns}
    for mode, precision in spec.settings:
        memory, speed = setting_columns(mode, precision)
        for column in (memory, speed):
            if column.name not in known:
                table.raw[column.name] = pd.array([None] * len(table.raw), dtype="Float64")
                table.columns.append(column)
        name = f"published_throughput_{speed.suffix}"
        published = _published(table, lines, name, f"Published images/s {speed.setting}")
        table.columns += published
        if published and spec.relative_to:
            _add_relative(table, spec.relative_to, speed, name)


def _add_relative(table: Table, to: str, speed: Column, printed_in: str) -> None:
    """Throughput over that of one row, measured and printed, and the gap of the two."""
    measured, printed = (table.raw[name].astype("Float64") for name in (speed.name, printed_in))
    paired = _ratios(table, speed)
    measured = paired if pd.notna(paired[to]) else measured  # rows of other runs were timed at other times
    ours, theirs = (
        numbers / numbers[to] if pd.notna(numbers[to]) else numbers * pd.NA for numbers in (measured, printed)
    )
    for kind, values, of in (
        ("Relative", ours, (speed.name,)),
        ("Published relative", theirs, (printed_in,)),
        ("Gap relative", ours - theirs, (speed.name, printed_in)),
    ):
        name = f"{kind.lower().replace(' ', '_')}_{speed.suffix}"
        table.raw[name] = values.astype("Float64")
        if values.notna().any():
            signed = len(of) == 2
            table.columns.append(Column(name, f"{kind} {speed.setting}", 1, 3, signed=signed, of=of))
    note = _RELATIVE.format(title=table.titles[to])
    if note not in table.notes:
        table.notes.append(note)


def _ratios(table: Table, speed: Column) -> pd.Series:
    """Speed of the rows over one baseline's, which took turns with each of them; empty without one."""
    found = {row: table.measured.get((str(row), speed.name)) for row in table.raw.index}
    details = {row: m.details for row, m in found.items() if m is not None and m.status == "ok"}
    one = len({facts.get("baseline") for facts in details.values()}) == 1
    known = {row: facts.get("ratio") for row, facts in details.items() if one}
    return pd.Series([known.get(row) for row in table.raw.index], table.raw.index, "Float64")


def _say_what_is_missing(table: Table, spec: PaperTable, lines: Sequence[Line]) -> None:
    """Notes: what is published only, and the commands that fill dashes."""
    for line in lines:
        if line.model is None:
            table.mark(line.name, "mechanism", _NOT_OURS)
    ours = [line.name for line in lines if line.model]
    if missing_static(table, ours):
        table.notes.append(f"Dashes in params and MACs: 'attnbench table {spec.name} --fill' counts them.")
    rest = [column.name for column in table.columns if column.metric in ("memory", "throughput")]
    rows = [row for row in ours if any((row, name) not in table.measured for name in rest)]
    if rows:
        listed = "; ".join(commands(spec, rows, "memory,throughput"))
        table.notes.append(f"Dashes in memory and images/s: {listed}")
    speeds = (f for line in lines for f in line.figures.values() if f.metric == "throughput")
    hardware = sorted({f.hardware for f in speeds})
    if hardware:
        table.notes.append(f"Published images/s: on {', '.join(hardware)}; batch not stated in our sources.")
    table.notes.append(_PUBLISHED.format(source=spec.source))


def missing_static(table: Table, rows: Sequence[str]) -> list[str]:
    """Those of the rows that lack parameters or MACs, and have not failed to give them."""
    return [
        row
        for row in rows
        if any(table.value(row, name) is None and (row, name) not in table.measured for name in _NAMES)
    ]


_NAMES = ("parameters", "macs")
