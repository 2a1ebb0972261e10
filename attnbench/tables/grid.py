"""A table as cells under headings of three levels: what the narrow text and the report print.

Where :class:`~attnbench.tables.render.Table` has one long heading and one string a cell, a grid says apart
what belongs together ("Memory, MiB" over "infer" over "FP32") and what a cell rests on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from attnbench import metrics
from attnbench.published import Figure
from attnbench.record import Measurement
from attnbench.tables.render import DASH, Column, Table, title_of
from attnbench.tables.speed import WITHHELD

SIGNS = {"faster": "▲", "slower": "▼", "cannot tell": "="}
"""What stands behind a ratio: whether its whole interval lies beyond the margin around 1."""
_DIGITS = 3
"""After the point, at most; what a number rests on, and a CSV, have them all."""
_STATUS = {"out_of_memory": "OOM", "failed": "failed", "crashed": "crash", "timed_out": "time"}


def with_interval(ratio: float, low: float, high: float, verdict: str) -> str:
    """``1.36 [1.32, 1.39] ▼``: a ratio, the ends of its 95 % interval and the sign of the verdict."""
    return f"{ratio:.2f} [{low:.2f}, {high:.2f}] {SIGNS.get(verdict, '')}".rstrip()


@dataclass(frozen=True)
class Head:
    """A column.

    Args:
        name: in a CSV, and for ``--columns``.
        levels: heading, from the widest to the narrowest; equal neighbours share one.
        rank: place in the queue for room: 1 is shown first, 0 only when asked for.
        better: ``more``, ``less``, or empty where neither is.
        printed: a paper's number, not one of ours.
    """

    name: str
    levels: tuple[str, str, str]
    rank: int = 0
    better: str = ""
    printed: bool = False


@dataclass(frozen=True)
class Cell:
    """One cell: what is printed, what it sorts by, and what it rests on."""

    text: str = ""
    value: float | str | None = None
    verdict: str = ""
    note: str = ""
    record: Measurement | None = None
    figure: Figure | None = None


@dataclass
class Grid:
    """Rows of cells.

    Args:
        heads: the columns.
        titles: what the first column prints, by row.
        marks: rows whose title carries a mark, with what it means.
        cells: by row and name of the column.
    """

    title: str
    heading: str
    heads: list[Head] = field(default_factory=list)
    titles: dict[str, str] = field(default_factory=dict)
    marks: dict[str, str] = field(default_factory=dict)
    cells: dict[tuple[str, str], Cell] = field(default_factory=dict)
    baseline: str = ""

    def cell(self, row: str, column: str) -> Cell:
        """A cell; an empty one where there is nothing."""
        return self.cells.get((row, column), Cell())


def grid(table: Table, planned: Sequence[Column] = (), baseline: str = "") -> Grid:
    """The cells of a table; of a speed, the ratio to the baseline stands before the speed itself.

    Args:
        table: as built.
        planned: columns that are shown although nothing is in them yet.
        baseline: title of what speeds are compared with, where no record says so yet.
    """
    found = Grid(table.title, table.heading, baseline=baseline)
    for row in map(str, table.raw.index):
        found.titles[row] = table.titles.get(row) or title_of(row)
        if mark := table.marks.get((row, "mechanism")):
            found.marks[row] = table.notes[mark - 1]
    columns = list({column.name: column for column in (*table.columns, *planned)}.values())
    paired = {c.name for c in columns if c.value is not None and c.value.paired}
    for column in columns:
        if column.name.startswith(_FROM_RATIO) and paired & set(column.of):
            continue  # drawn from the records, with its sign apart
        if column.name in paired:
            _add_ratio(found, table, column, even_empty=column in planned)
        found.heads.append(_head(table, column))
        found.cells |= {(row, column.name): _cell(table, row, column) for row in found.titles}
    if not any(
        head.rank for head in found.heads
    ):  # a table of its own, of what the ablation table leaves out
        own = {column.name: place for place, column in enumerate(columns, start=1) if not column.csv_only}
        found.heads = [replace(head, rank=own.get(head.name, 0)) for head in found.heads]
    first = {head.levels: place for place, head in reversed(list(enumerate(found.heads)))}
    groups = list(dict.fromkeys(head.levels[0] or head.name for head in found.heads))
    found.heads.sort(key=lambda head: (groups.index(head.levels[0] or head.name), first[head.levels]))
    return found


_FROM_RATIO = ("speed_", "ratio_")


def _head(table: Table, column: Column) -> Head:
    """Heading and rank of a column, by the description of what it shows."""
    value = column.value
    sample = next((m for (_, name), m in table.measured.items() if name == column.name), None)
    if value is None and sample is not None:  # computed of several records, such as a mean over seeds
        rank = 0 if column.csv_only else 100 * metrics.get(sample.cell.metric).order + column.turn
        return Head(column.name, _levels(column), rank, "more")
    if value is None:
        printed = any(name == column.name for _, name in table.figures)
        rank = _PUBLISHED_RANKS.get(column.name, 0)
        size = column.name in _OF_SIZE and table.layout is not None
        return Head(column.name, _levels(column), 0 if size else rank, "", printed)
    of = metrics.get(column.metric)
    better = {"higher": "more", "lower": "less", "equal": "less"}[value.better]
    hidden = column.csv_only or value.paired or bool(value.repeats) or bool(column.regime) or not of.default
    if of.per_setting:
        heading = value.heading.format(setting="", layout=table.layout or "")
        levels = (
            _comma(heading),
            column.mode,
            " ".join(filter(None, (column.precision.upper(), column.regime))),
        )
        return Head(
            column.name, levels, 0 if hidden or column.precision.startswith("amp") else _rank(column), better
        )
    return Head(column.name, _levels(column), 0 if hidden else _rank(column), better)


def _rank(column: Column) -> int:
    """Metrics take their turns; of one, inference comes before training and FP32 before AMP."""
    of = metrics.get(column.metric)
    place = [value.name for value in of.values].index(column.value.name) if column.value else 0
    return 100 * of.order + 10 * place + 2 * (column.mode != "infer") + column.precision.startswith("amp")


_PUBLISHED_RANKS = {
    "published_top1": 5510,  # after what a probe has to say in two columns, before all else of the probes
    "published_params": 9100,
    "published_macs": 9200,
    "published_miou": 9300,
}
"""What papers print comes after the cost that was measured."""
_OF_SIZE = ("published_params", "published_macs")
"""Not among the first where a table is of mechanisms, not of papers' models."""


def _comma(heading: str) -> str:
    """``Memory (MiB)`` as ``Memory, MiB``."""
    head, bracket, unit = " ".join(heading.split()).partition(" (")
    return f"{head}, {unit.removesuffix(')')}" if bracket else head


def _levels(column: Column) -> tuple[str, str, str]:
    """``Params (M)`` as ``Params`` over ``M``; of three parts, the last says who says so, or the unit."""
    heading, published = column.heading, column.heading.startswith("Published ")
    heading = heading.removeprefix("Published ")
    head, _, unit = (heading.partition(": ")[2] or heading).partition(" (")
    first, _, rest = head.partition(", " if ", " in head else " ")
    parts = [first, rest, "paper" if published else unit.removesuffix(")")]
    known = [part for part in parts if part]
    return tuple([""] * (3 - len(known)) + known)  # type: ignore[return-value]


def _add_ratio(found: Grid, table: Table, column: Column, even_empty: bool) -> None:
    """The column of ratios to the baseline, if any row has one."""
    name = f"ratio_{column.suffix}"
    cells = {row: _ratio(table.measured.get((row, column.name))) for row in found.titles}
    if not even_empty and not any(cell.verdict for cell in cells.values()):
        return
    own = next((row for row, cell in cells.items() if cell.verdict == "baseline"), "")
    found.baseline = found.titles.get(own, found.baseline)
    setting = " ".join(filter(None, (column.precision.upper(), column.regime)))
    levels = (f"Speed / {found.baseline or 'baseline'}", column.mode, setting)
    found.heads.append(Head(name, levels, 0 if column.regime else _rank(column), "more"))
    found.cells |= {(row, name): cell for row, cell in cells.items()}


def _ratio(m: Measurement | None) -> Cell:
    if m is None or m.status != "ok" or WITHHELD in m.details or m.details.get("ratio") is None:
        return Cell() if m is None else _without(m)
    ratio, verdict = float(m.details["ratio"]), str(m.details.get("verdict", ""))
    if verdict == "baseline":
        return Cell("1", 1.0, "baseline", "what the others are compared with", m)
    low, high = m.details.get("ratio_low"), m.details.get("ratio_high")
    note = "" if low is None else f"95 % interval {low:.3f} to {high:.3f}: {verdict}"
    return Cell(f"{ratio:.2f} {SIGNS.get(verdict, ' ')}", ratio, verdict, note, m)


def _cell(table: Table, row: str, column: Column) -> Cell:
    m, figure = table.measured.get((row, column.name)), table.figures.get((row, column.name))
    value = table.value(row, column.name)
    if m is not None and value is None:
        return _without(m)
    mark = table.marks.get((row, column.name))
    note = table.notes[mark - 1] if mark else ""
    if value is None:
        return Cell(note=note, record=m, figure=figure)
    bound = "≥" if (row, column.name) in table.at_least else ""
    shown = replace(column, digits=min(column.digits, _DIGITS)).show(value)
    number = value if isinstance(value, str) else float(value)
    return Cell("" if shown == DASH else bound + shown, number, "", note, m, figure)


def _without(m: Measurement) -> Cell:
    """A cell that was tried and has no number: one word, and why."""
    if WITHHELD in m.details:
        return Cell("unproven", None, "", str(m.details[WITHHELD]), m)
    return Cell(_STATUS.get(m.status, m.status), None, "", f"{m.status.replace('_', ' ')}: {m.reason}", m)
