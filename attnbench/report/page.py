"""The page: what goes into the template, and the template filled in. The same records give the same bytes."""

import functools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

import attnbench
from attnbench import tables
from attnbench.errors import ImplementationError
from attnbench.record import Measurement
from attnbench.report import sections
from attnbench.report.sources import Source, hint, source
from attnbench.tables.conditions import conditions
from attnbench.tables.grid import Grid, Head, grid
from attnbench.tables.narrow import caption
from attnbench.tables.points import GROUPS, group_of
from attnbench.tables.render import Table

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass
class CellView:
    """A cell as the template writes it."""

    text: str
    sort: str
    classes: str
    hint: str
    anchor: str


@dataclass
class RowView:
    """A row of the table, and the list of what its numbers rest on."""

    title: str
    anchor: str
    group: str
    mark: str
    cells: list[CellView] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)


class Conditions:
    """Texts of conditions that many records share, listed once under a short name."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def name(self, text: str) -> str:
        """The name of a text, a new one for a new text."""
        return self._names.setdefault(text, f"conditions {len(self._names) + 1}")

    def listed(self) -> list[tuple[str, str]]:
        """Names and texts."""
        return [(name, text) for text, name in self._names.items()]


def page(
    records: Sequence[Measurement],
    *,
    layout: str | None = None,
    resolution: int | None = None,
    device: str | None = None,
    extras: Sequence[sections.Extra] = (),
) -> str:
    """The report as one HTML file that needs nothing else.

    Args:
        records: oldest first.
        layout, resolution, device: of the table; by default those of the newest record.
        extras: parts made elsewhere, shown below the table in their order.

    Raises:
        AttnbenchError: no record fits.
        ImplementationError: altair or vl-convert-python is not installed.
    """
    table = tables.ablation(records, layout=layout, resolution=resolution, device=device)
    found = grid(table)
    shared = Conditions()
    rows = [_row(found, row, shared) for row in found.titles]
    charts = sections.charts(table, records)
    more = sections.tables(table, records)
    parts = [(part.anchor, part.heading) for part in charts] + [(part.anchor, part.heading) for part in more]
    parts = [(part.anchor, part.heading) for part in extras] + parts
    anchors = [("table", "Table"), *parts, ("provenance", "Sources")]
    return _environment().get_template("report.html").render(
        title=table.title,
        caption=caption(table).partition(" · ")[2] or "counts only",
        version=attnbench.__version__,
        css=Markup(_text("report.css")),
        script=Markup(_text("report.js")),
        library=Markup(_library()),
        specs=_inline_json({chart.name: chart.spec for s in charts for chart in s.charts}),
        sections=anchors,
        findings=sections.findings(table),
        groups=[(key, GROUPS[key]) for key in GROUPS if any(row.group == key for row in rows)],
        grid=found,
        heading_groups=_heading_groups(found.heads),
        rows=rows,
        marks=list(dict.fromkeys(found.marks.values())),
        extras=extras,
        chart_sections=charts,
        table_sections=more,
        conditions=[*shared.listed(), *_machines(table)],
        notes=table.notes,
        count=len(records),
        command="attnbench report",
    )  # fmt: skip


@dataclass
class Group:
    """Columns that share a heading: how many in the narrow table, and how many in all."""

    title: str
    narrow: int = 0
    all: int = 0


def _heading_groups(heads: Sequence[Head]) -> list[Group]:
    groups: list[Group] = []
    for head in heads:
        title = head.levels[0]
        if not (groups and title and groups[-1].title == title):
            groups.append(Group(title))
        groups[-1].all += 1
        groups[-1].narrow += bool(head.rank)
    return groups


def _row(found: Grid, row: str, shared: Conditions) -> RowView:
    anchor = "row-" + re.sub(r"[^a-z0-9_-]+", "-", row.lower()).strip("-")
    view = RowView(found.titles[row], anchor, group_of(row), found.marks.get(row, ""))
    for number, head in enumerate(found.heads):
        view.cells.append(_cell(found, row, head, f"{anchor}-{number}"))
        cell = found.cell(row, head.name)
        if cell.record is not None or cell.figure is not None:
            view.sources.append(source(f"{anchor}-{number}", head, cell, shared.name))
    return view


def _cell(found: Grid, row: str, head: Head, anchor: str) -> CellView:
    cell = found.cell(row, head.name)
    known = cell.record is not None or cell.figure is not None
    classes = [cell.verdict.replace(" ", "-"), "" if head.rank else "extra"]
    classes.append(
        "missing" if cell.value is None and cell.text else "text" if isinstance(cell.value, str) else ""
    )
    sort = "" if cell.value is None else cell.value if isinstance(cell.value, str) else repr(cell.value)
    told = hint(head, cell) if known or cell.note else ""
    return CellView(cell.text, sort, " ".join(filter(None, classes)), told, anchor if known else "")


def _machines(table: Table) -> list[tuple[str, str]]:
    """Each environment that measured something, by machine, once."""
    known: dict[str, dict[str, Any]] = {}
    for m in table.measured.values():
        if conditions(m) and m.environment:
            known.setdefault(m.cell.machine or m.cell.device, m.environment)
    return [
        (f"machine {name}", json.dumps(environment, sort_keys=True, default=str))
        for name, environment in sorted(known.items())
    ]


@functools.cache
def _environment() -> jinja2.Environment:
    """Everything is escaped: titles and reasons come from plug-ins and records."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
    )


def _text(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _inline_json(content: Any) -> Markup:
    """JSON that no text in it can end early: ``<`` is written as an escape."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


@functools.cache
def _library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, made without a network."""
    try:
        import vl_convert
    except ImportError as error:
        raise ImplementationError(
            f"the report needs vl-convert-python, which does not import ({error}); install attnbench[report]"
        ) from error
    script: str = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # its stub lacks the default
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")
