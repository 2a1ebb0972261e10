"""Where a cell of a table comes from, or the command that would fill it."""

import json
from pathlib import Path

from attnbench import baselines, registry
from attnbench.errors import AttnbenchError, UnknownNameError
from attnbench.published import Figure
from attnbench.record import Measurement
from attnbench.tables.conditions import conditions
from attnbench.tables.render import Column, Table, title_of
from attnbench.tables.speed import WITHHELD


def explain(table: Table, row: str, column: str) -> str:
    """What is known of a cell, as lines of text.

    Args:
        table: as built.
        row: its name or title, in any case.
        column: its heading or its name in a CSV, in any case.

    Raises:
        UnknownNameError: there is no such row or column.
    """
    place, shown = _row(table, row), _column(table, column)
    title = _title(table, place)
    lines = [f"{title}, {shown.heading}: {shown.show(table.value(place, shown.name))}"]
    number = table.marks.get((place, shown.name))
    if number:
        lines.append(f"note: {table.notes[number - 1]}")
    parts = shown.of or (shown.name,)
    for part in parts:
        if len(parts) > 1:
            heading = next((c.heading for c in table.columns if c.name == part), part)
            lines.append(f"from {heading}:")
        if (place, part) in table.measured:
            lines += _of_record(table.measured[place, part])
        elif (place, part) in table.figures:
            lines += _of_figure(table.figures[place, part])
        elif part in table.raw and table.value(place, part) is None:
            lines.append("no record and no published figure")
    return "\n".join(lines)


def record_of(table: Table, row: str, column: str) -> Measurement | None:
    """The record behind a cell, if there is one."""
    place, shown = _row(table, row), _column(table, column)
    found = (table.measured.get((place, part)) for part in shown.of or (shown.name,))
    return next((m for m in found if m is not None), None)


def is_missing(table: Table, row: str, column: str) -> bool:
    """Whether a cell shows a dash that measuring would fill."""
    place, shown = _row(table, row), _column(table, column)
    parts = [part for part in shown.of or (shown.name,) if not part.startswith("published")]
    return any(
        part in table.raw and table.value(place, part) is None and (place, part) not in table.measured
        for part in parts
    )


def row_name(table: Table, row: str) -> str:
    """The name of a row that a user named by name or title; see :func:`explain`."""
    return _row(table, row)


def metric_of(table: Table, column: str) -> str:
    """The metric that ``attnbench run`` takes for a measured column, or one computed from it; else empty."""
    shown = _column(table, column)
    parts = [shown, *(known for known in table.columns if known.name in shown.of)]
    return next((part.metric for part in parts if part.metric), "")


def _row(table: Table, row: str) -> str:
    names = {str(name).casefold(): str(name) for name in table.raw.index}
    by_title = {_title(table, name).casefold(): name for name in names.values()}
    found = names.get(row.casefold()) or by_title.get(row.casefold())
    if found is None:
        raise UnknownNameError("row", row, names.values())
    return found


def _title(table: Table, row: str) -> str:
    return table.titles.get(row) or title_of(row)


def _column(table: Table, column: str) -> Column:
    for known in table.columns:
        if column.casefold() in (known.name.casefold(), known.heading.casefold()):
            return known
    raise UnknownNameError("column", column, [known.name for known in table.columns])


def _of_record(m: Measurement) -> list[str]:
    """A record: value, cell, conditions, provenance."""
    cell = m.cell
    value = f"{m.value} {m.unit}" if m.status == "ok" else f"{m.status.replace('_', ' ')}: {m.reason}"
    value = f"withheld: {m.details[WITHHELD]}" if WITHHELD in m.details else value
    lines = [f"measured by attnbench: {value} ({m.name})", f"record: key {m.key}, made {m.created}"]
    options = f", options {json.dumps(cell.options, sort_keys=True)}" if cell.options else ""
    lines.append(
        f"cell: {cell.mechanism} in {cell.layout} at {cell.resolution} px{options}, seed {cell.seed}, "
        f"impl {cell.impl}{f', ran {m.implementation}' if m.implementation else ''}"
    )
    lines.append(f"conditions: {conditions(m) or 'none; a count is the same on every machine'}")
    if m.samples:
        spread = ", ".join(f"{name} {number:g}" for name, number in m.spread.items())
        lines.append(f"samples: {len(m.samples)}{f' ({spread})' if spread else ''}")
    lines.append(f"source: {_source(m)}")
    if m.details:
        lines.append(f"details: {_short(m.details)}")
    lines.append(f"environment: {_short(m.environment)}" if m.environment else "environment: not recorded")
    return lines


def _source(m: Measurement) -> str:
    """Digest of what was measured, and whether it is what lies there now."""
    cell = m.cell
    if not cell.source:
        return "not recorded"
    try:
        reference = baselines.is_baseline(cell.mechanism)
        now = baselines.source(cell.mechanism) if reference else registry.get(cell.mechanism).digest()
    except AttnbenchError:
        return f"{cell.source}, of a mechanism that is not registered here"
    return f"{cell.source}, {'as it is now' if now == cell.source else f'edited since (now {now})'}"


def _of_figure(figure: Figure) -> list[str]:
    """A published number: where it stands, who trained it and how."""
    facts = {
        "of": f"{figure.paper}, {figure.year}{f', arXiv:{figure.arxiv}' if figure.arxiv else ''}",
        "trained by": figure.trained_by,
        "schedule": figure.schedule,
        "head": figure.head,
        "resolution": figure.resolution and f"{figure.resolution} px",
        "setting": " ".join(filter(None, (figure.mode, figure.precision))),
        "hardware": figure.hardware,
        "source": figure.url,
        "note": figure.note,
    }
    value = f"{figure.value} {figure.unit}" if figure.value else "cannot be read"
    head = f"published: {value}, in {figure.source()} (line {figure.key} of results/published.csv)"
    return [head, *(f"{name}: {text}" for name, text in facts.items() if text)]


def _short(facts: dict) -> str:
    """As JSON; long lists by their length."""
    shown = {k: f"{len(v)} values" if isinstance(v, list) and len(v) > 40 else v for k, v in facts.items()}
    return json.dumps(shown, sort_keys=True, default=str)


def file_of(folder: Path, m: Measurement) -> str:
    """The file and line of a record, below a folder."""
    for path in sorted(folder.rglob("*.jsonl")) if folder.is_dir() else [folder]:
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if m.key in line and m.created in line and f'"{m.name}"' in line:
                return f"{path}:{number}"
    return f"{folder}, which has changed since"
