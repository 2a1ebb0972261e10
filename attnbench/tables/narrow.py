"""A grid as text that fits: at most 100 columns, with notes as short as a paper's."""

import textwrap
from collections.abc import Sequence

from attnbench import metrics
from attnbench.errors import UnknownNameError
from attnbench.tables.grid import SIGNS, Grid, Head, grid
from attnbench.tables.render import Table

WIDTH = 100
_NAME = 24
"""Characters of the first column, at most."""
_DAGGER = "†"


def as_text(table: Table, *, columns: Sequence[str] = (), wide: bool = False) -> str:
    """A table as text; see :func:`narrow`."""
    return narrow(grid(table), table, columns=columns, wide=wide)


def narrow(
    found: Grid, table: Table, *, columns: Sequence[str] = (), wide: bool = False, pending: bool = False
) -> str:
    """The table as text.

    Args:
        found: cells of the table.
        table: which they are of; its records tell the conditions.
        columns: names of the columns to show, in that order; empty for those that fit.
        wide: show all columns, however wide.
        pending: what is missing is still to come.

    Raises:
        UnknownNameError: no column is called so.
    """
    heads = _chosen(found, columns, wide)
    names = [_name(found, row) for row in found.titles]
    left = max(map(len, [found.heading, *names]))
    if not columns and not wide:
        heads = _fitting(found, heads, left)
    widths = [_width(found, head) for head in heads]
    _widen(heads, widths)
    gaps = [_gap(heads, i) for i in range(len(heads))]
    lines = [_heading(heads, widths, gaps, level, left, found.heading) for level in range(3)]
    empty = ["·" if pending and not head.printed else "-" for head in heads]
    for row, name in zip(found.titles, names, strict=True):
        cells = [
            (found.cell(row, head.name).text or none).rjust(width)
            for head, width, none in zip(heads, widths, empty, strict=True)
        ]
        lines.append(name.ljust(left) + "".join(g + c for g, c in zip(gaps, cells, strict=True)))
    body = "\n".join(line.rstrip() for line in lines if line.strip())
    notes = _notes(found, table, heads, pending)
    return f"{caption(table)}\n\n{body}\n" + "".join(f"{note}\n" for note in ["", *notes])


def caption(table: Table) -> str:
    """What was measured where, in a line."""
    here = [m for m in table.measured.values() if m.cell.device != "meta"]
    own = [m for m in here if m.cell.layout == table.layout] or here
    parts = [
        f"{table.title.replace(f'{table.resolution} × {table.resolution} px', f'{table.resolution} px')}"
    ]
    timed = [m for m in own if metrics.get(m.cell.metric).grouped]
    m = next(iter(timed or own), None)
    if m is not None:
        parts.append(f"{m.cell.device.upper()} {m.cell.machine}")
        if m.cell.batch_size:
            parts.append(f"batch {m.cell.batch_size}")
        parts.append(f"torch {'.'.join(m.cell.torch.split('+')[0].split('.')[:2])}")
    unbroken = [part.replace(" ", "\N{NO-BREAK SPACE}") if len(part) < WIDTH // 2 else part for part in parts]
    return _wrapped(" · ".join(unbroken)).replace("\N{NO-BREAK SPACE}", " ")


def _chosen(found: Grid, columns: Sequence[str], wide: bool) -> list[Head]:
    if columns:
        by_name = {head.name: head for head in found.heads}
        for name in columns:
            if name not in by_name:
                raise UnknownNameError("column", name, by_name)
        return [by_name[name] for name in columns]
    return [head for head in found.heads if wide or head.rank]


def _fitting(found: Grid, heads: list[Head], left: int) -> list[Head]:
    """As many columns as there is room for, the first in rank first, in the table's order."""
    kept: list[Head] = []
    for head in sorted(heads, key=lambda head: head.rank):
        tried = [h for h in heads if h in kept or h is head]
        widths = [_width(found, h) for h in tried]
        _widen(tried, widths)
        if left + sum(widths) + sum(len(_gap(tried, i)) for i in range(len(tried))) <= WIDTH:
            kept.append(head)
    return [head for head in heads if head in kept]


def _name(found: Grid, row: str) -> str:
    title = found.titles[row]
    mark = f" {_DAGGER}" if row in found.marks else ""
    room = _NAME - len(mark)
    return (title if len(title) <= room else f"{title[: room - 1]}…") + mark


def _width(found: Grid, head: Head) -> int:
    texts = [found.cell(row, head.name).text for row in found.titles]
    own = [head.levels[2], *(level for level in head.levels[:2] if not _shared(found.heads, head, level))]
    return max(map(len, [*texts, *own, "-"]))


def _shared(heads: list[Head], head: Head, level: str) -> bool:
    return sum(level in other.levels[:2] and other.levels[0] == head.levels[0] for other in heads) > 1


def _runs(heads: list[Head], level: int) -> list[tuple[int, int]]:
    """First and last place of neighbours that share a heading, and those above it."""
    runs: list[tuple[int, int]] = []
    for i, head in enumerate(heads):
        above = head.levels[: level + 1]
        if runs and any(above) and heads[runs[-1][0]].levels[: level + 1] == above:
            runs[-1] = (runs[-1][0], i)
        else:
            runs.append((i, i))
    return runs


def _widen(heads: list[Head], widths: list[int]) -> None:
    """Make columns wide enough for the headings they share."""
    for level in (0, 1, 2):
        for first, last in _runs(heads, level):
            room = sum(widths[first : last + 1]) + sum(
                len(_gap(heads, i)) for i in range(first + 1, last + 1)
            )
            widths[first] += max(0, len(heads[first].levels[level]) - room)


def _gap(heads: list[Head], i: int) -> str:
    """Two spaces between groups, one within."""
    if i and heads[i].levels[0] and heads[i - 1].levels[0] == heads[i].levels[0]:
        return " "
    return "  "


def _heading(
    heads: list[Head], widths: list[int], gaps: list[str], level: int, left: int, heading: str
) -> str:
    line = (heading if level == 2 else "").ljust(left)
    for first, last in _runs(heads, level):
        room = sum(widths[first : last + 1]) + sum(len(gap) for gap in gaps[first + 1 : last + 1])
        text = heads[first].levels[level]
        line += gaps[first] + (text.rjust(room) if first == last else text.center(room))
    return line


def _notes(found: Grid, table: Table, heads: list[Head], pending: bool) -> list[str]:
    shown = [found.cell(row, head.name) for row in found.titles for head in heads]
    notes = []
    if any(cell.verdict in SIGNS for cell in shown):
        notes.append("▲ faster  ▼ slower  = cannot tell, at the 95 % level, compared block by block")
    for meaning in dict.fromkeys(found.marks[row] for row in found.titles if row in found.marks):
        notes.append(f"{_DAGGER} {meaning}")
    notes += dict.fromkeys(table.legends[head.name] for head in heads if head.name in table.legends)
    if any(cell.text.startswith("≥") for cell in shown):
        notes.append("≥ lower bound: an operator has no formula")
    if any(cell.record is not None and cell.value is None and cell.text for cell in shown):
        notes.append("a word for a number: 'attnbench table' with --explain ROW COLUMN says why")
    if any(not cell.text for cell in shown):
        notes.append("· still to be measured" if pending else _missing(found, table, heads))
    hidden = [head for head in found.heads if head not in heads]
    if hidden and not pending:
        notes.append(
            f"{len(hidden)} more columns: --wide, or --columns {hidden[0].name},...; all in --format csv"
        )
    return [_wrapped(note) for note in notes if note]


def _missing(found: Grid, table: Table, heads: list[Head]) -> str:
    """What a dash means: not measured, or not published."""
    missing: dict[str, None] = {}
    for head in heads:
        cells = [found.cell(row, head.name) for row in found.titles]
        record = next((cell.record for cell in cells if cell.record is not None), None)
        if record is not None and not all(cell.text for cell in cells):
            missing[record.cell.metric] = None
    if not missing:
        return "- not published"
    if not table.layout:
        return "- not published, or not measured: --explain ROW COLUMN names the command"
    command = f"attnbench run --layout {table.layout} --metrics {','.join(missing)}"
    return f"- not measured: {command}; or not published"


def _wrapped(note: str) -> str:
    return "\n".join(
        textwrap.wrap(note, WIDTH, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)
    )
