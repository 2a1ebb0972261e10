"""A table of strings from raw values: Markdown, CSV, LaTeX (booktabs), HTML, all from one frame."""

from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import pandas as pd

from attnbench import baselines, escaping, markdown, registry
from attnbench.errors import AttnbenchError, UnknownNameError
from attnbench.metrics import Value
from attnbench.published import Figure
from attnbench.record import Measurement

FORMATS = ("md", "csv", "latex", "html")
DASH = "—"


@dataclass(frozen=True)
class Column:
    """A column: its name in a CSV, its heading, and how its raw value is shown.

    ``digits`` after the point, of the value over ``scale``; −1 for as many as the source prints. A column
    that is ``csv_only`` is shown elsewhere only if one of its values is refused, with the reason. One that is
    ``signed`` shows a plus.

    Where it shows what was measured, ``metric`` and ``value`` say what (see :mod:`attnbench.metrics`), and
    ``mode``, ``precision`` and ``regime`` in which setting. ``of`` names the columns it is computed from.
    ``turn`` says when it is given room where there is little, among the columns of its kind: 0 first.
    """

    name: str
    heading: str
    scale: float = 1.0
    digits: int = 0
    csv_only: bool = False
    signed: bool = False
    metric: str = ""
    value: Value | None = None
    mode: str = ""
    precision: str = ""
    regime: str = ""
    of: tuple[str, ...] = ()
    turn: int = 0

    @property
    def setting(self) -> str:
        """Mode, precision and regime as a heading says them: ``infer FP32, latency``."""
        return _setting(self.mode, self.precision, self.regime)

    @property
    def suffix(self) -> str:
        """Mode, precision and regime as the name of a column ends: ``infer_fp32_latency``."""
        return "_".join(filter(None, (self.mode, self.precision, self.regime)))

    @classmethod
    def of_value(
        cls,
        metric: str,
        value: Value,
        *,
        mode: str = "",
        precision: str = "",
        regime: str = "",
        layout: str = "",
    ) -> "Column":
        """The column of what a metric records, in one setting."""
        where = cls("", "", mode=mode, precision=precision, regime=regime)
        return cls(
            name=value.column.format(suffix=where.suffix, layout=layout),
            heading=value.heading.format(setting=where.setting, layout=layout),
            scale=value.scale,
            digits=value.digits,
            csv_only=value.csv_only,
            metric=metric,
            value=value,
            mode=mode,
            precision=precision,
            regime=regime,
        )

    def show(self, value: object) -> str:
        """The value as a table prints it."""
        if value is None or value is pd.NA or value != value:
            return DASH
        if isinstance(value, Real):
            scaled = float(value) / self.scale
            sign = "+" if self.signed else ""
            return f"{scaled:g}" if self.digits < 0 else f"{scaled:{sign},.{self.digits}f}"
        return str(value)


def _setting(mode: str, precision: str, regime: str) -> str:
    return f"{mode} {precision.upper()}{f', {regime}' if regime else ''}"


@dataclass
class Table:
    """Raw values by mechanism and column, how to show them, and the notes below."""

    columns: list[Column]
    raw: pd.DataFrame
    marks: dict[tuple[str, str], int] = field(default_factory=dict)
    at_least: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    """Counts that are lower bounds, with the operators that have no formula."""
    notes: list[str] = field(default_factory=list)
    title: str = ""
    layout: str | None = None
    resolution: int | None = None
    heading: str = "Attention"
    titles: dict[str, str] = field(default_factory=dict)
    """What the first column prints for a row, where that is not the mechanism's title."""
    measured: dict[tuple[str, str], Measurement] = field(default_factory=dict)
    figures: dict[tuple[str, str], Figure] = field(default_factory=dict)
    """The records and the published figures behind cells, by row and column."""
    legends: dict[str, str] = field(default_factory=dict)
    """What a column's numbers are, in a line, for a text that has no room for the notes."""
    _numbers: dict[str, int] = field(default_factory=dict)

    def value(self, row: str, column: str) -> Any:
        """The raw value of a cell; ``None`` where there is none."""
        found: Any = self.raw.loc[row, column] if column in self.raw else None
        return None if found is None or found is pd.NA or found != found else found

    def mark(self, row: str, column: str, note: str) -> None:
        """Put a footnote on a cell, ``mechanism`` for the row's name; equal notes share a number."""
        if len(self._numbers) != len(self.notes):  # some were added without a mark
            self._numbers = {known: number for number, known in enumerate(self.notes, start=1)}
        if note not in self._numbers:
            self.notes.append(note)
            self._numbers[note] = len(self.notes)
        self.marks[row, column] = self._numbers[note]


def render(table: Table, form: str) -> str:
    """A table as Markdown, CSV (raw values), LaTeX (booktabs) or HTML.

    Raises:
        UnknownNameError: ``form`` is none of these.
    """
    if form not in FORMATS:
        raise UnknownNameError("format", form, FORMATS)
    if form == "csv":
        return _safe(table.raw).to_csv(index_label=str(table.raw.index.name), lineterminator="\n")
    shown = _shown(table)
    if form == "md":
        return _markdown(table, shown)
    if form == "latex":
        return _latex(table, shown)
    style = shown.style.set_uuid("attnbench").hide(axis="index").set_caption(escaping.html(table.title))
    style = style.format(escape="html").format_index(escaping.html, axis="columns")
    notes = "".join(f"<li>{escaping.html(note)}</li>" for note in table.notes)
    return f"{style.to_html(table_attributes='class=attnbench')}<ul>{notes}</ul>\n"


def _safe(raw: pd.DataFrame) -> pd.DataFrame:
    """The frame without texts that a spreadsheet would run."""
    safe = raw.rename(index=escaping.spreadsheet)
    for name in safe.columns:
        if safe[name].dtype in ("object", "string"):
            safe[name] = [escaping.spreadsheet(value) for value in safe[name]]
    return safe


def _shown(table: Table) -> pd.DataFrame:
    """The table as strings, with headings and footnote marks."""
    numbers = [table.marks.get((row, "mechanism")) for row in table.raw.index]
    titles = [table.titles.get(row) or title_of(row) for row in table.raw.index]
    names = zip(titles, numbers, strict=True)
    shown = pd.DataFrame({table.heading: [f"{title} [{n}]" if n else title for title, n in names]})
    for column in table.columns:
        marks = [table.marks.get((row, column.name)) for row in table.raw.index]
        if column.csv_only and not any(marks):
            continue
        if not any(marks) and _says_it_again(table, column):
            continue  # said twice would be noise; a CSV has both
        bounds = [(row, column.name) in table.at_least for row in table.raw.index]
        cells = [
            f"≥ {column.show(value)}" if bound else column.show(value)
            for value, bound in zip(table.raw[column.name], bounds, strict=True)
        ]
        shown[column.heading] = [
            f"{cell} [{mark}]" if mark else cell for cell, mark in zip(cells, marks, strict=True)
        ]
    return shown


def _says_it_again(table: Table, column: Column) -> bool:
    """Whether a column equals the one that it repeats in another way of counting."""
    other = column.value.repeats if column.value else ""
    if other not in table.raw:
        return False
    one, two = table.raw[other], table.raw[column.name]
    return bool(((one == two) | (one.isna() & two.isna())).fillna(False).all())


def title_of(row: str) -> str:
    """What a table prints for a row that is named by mechanism and options."""
    mechanism, bracket, options = row.partition("[")
    if baselines.is_baseline(mechanism):
        return baselines.TITLES[mechanism]
    try:
        title = registry.get(mechanism).facts.title
    except AttnbenchError:
        return row  # measured with a plugin that is not loaded now
    return f"{title} {bracket}{options}" if options else title


def _markdown(table: Table, shown: pd.DataFrame) -> str:
    rows = [[str(cell) for cell in row] for row in shown.to_numpy().tolist()]
    body = markdown.table([str(heading) for heading in shown.columns], rows)
    notes = [f"[{number}] {escaping.markdown(note)}" for number, note in enumerate(table.notes, start=1)]
    return (
        "\n".join([escaping.markdown(table.title), "", body, "", *(f"{note}  " for note in notes)]).rstrip()
        + "\n"
    )


def _latex(table: Table, shown: pd.DataFrame) -> str:
    """A ``table`` environment for LaTeX with the booktabs package."""
    safe = shown.map(_escape_latex)
    safe.columns = pd.Index([_escape_latex(heading) for heading in shown.columns])
    body = safe.style.hide(axis="index").to_latex(hrules=True, column_format="l" + "r" * (safe.shape[1] - 1))
    notes = "\\par\n".join(f"[{n}] {_escape_latex(note)}" for n, note in enumerate(table.notes, start=1))
    head = f"% needs \\usepackage{{booktabs}}\n\\begin{{table}}\n\\caption{{{_escape_latex(table.title)}}}\n"
    return f"{head}{body}\\par\\footnotesize {notes}\n\\end{{table}}\n"


_LATEX = {"≥": r"$\geq$", "—": "---", "–": "--", "×": r"$\times$", "²": "$^2$", "…": r"\ldots{}"}
_LATEX |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {character: f"\\{character}" for character in "&%$#_{}"}


def _escape_latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
