"""``attnbench compare``: two sets of records, cell by cell."""

import csv
import io
import json
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from attnbench import escaping, markdown
from attnbench.commands import _types
from attnbench.commands._arguments import deliver, output_option, plugin_option, warn
from attnbench.errors import AttnbenchError

if TYPE_CHECKING:
    from attnbench.regressions import Row


@click.command()
@click.argument("before", type=_types.Existing(), metavar="A")
@click.argument("after", type=_types.Existing(), metavar="B")
@click.option(
    "--format", "form", type=_types.OneOf("format", "md", "csv", "json"), default="md", show_default=True
)
@output_option
@click.option(
    "--margin",
    type=_types.Number(0, 100, below=True),
    metavar="PERCENT",
    help="Speeds closer are alike.  [default: 3; 0 where both sets have several processes per candidate]",
)
@click.option("--all", "every", is_flag=True, help="Show what is the same, too (csv and json always do).")
@plugin_option
def command(
    before: Path, after: Path, form: str, output: Path | None, margin: float | None, every: bool
) -> None:
    """Compare the records B with the records A: folders or files, of two commits or two machines.

    Exits with status 1 if something became slower, takes more memory or MACs, has other parameters, learns
    worse than the interval of A allows, or fails now. Conditions that differ are named.
    """
    from attnbench import regressions, store

    sides = [store.read(folder, warn) for folder in (before, after)]
    for folder, side in zip((before, after), sides, strict=True):
        if not side:
            raise AttnbenchError(f"no record could be read in {folder}; give a folder or file of records")
    rows = regressions.compare(sides[0], sides[1], None if margin is None else margin / 100)
    text = {"md": _markdown, "csv": _csv, "json": _json}[form](rows, regressions.conditions(rows), every)
    deliver(text, output)
    worse = [row for row in rows if row.regression]
    for row in worse if form != "md" or output else ():
        click.echo(f"{row.verdict}: {row.cell}: {row.name}", err=True)
    if worse:
        sys.exit(1)


def _markdown(rows: "list[Row]", conditions: list[str], every: bool) -> str:
    cells = []
    shown = [row for row in rows if every or row.verdict not in ("same", "only in A", "only in B")]
    for row in sorted(shown, key=lambda row: not row.regression):
        verdict = f"**{row.verdict}**" if row.regression else row.verdict
        name = f"{row.name} ({row.unit})" if row.unit not in ("", row.name) else row.name
        cells.append((row.cell, name, _number(row.before), _number(row.after), _ratio(row), verdict))
    lines = [markdown.table(("Cell", "Value", "A", "B", "B / A", "Verdict"), cells, left=(0, 1, 5))]
    counts = Counter(row.verdict for row in rows)
    lines += ["", "; ".join(f"{verdict}: {count}" for verdict, count in counts.most_common()) + "."]
    if conditions:
        lines += [
            "",
            "Measured under different conditions:",
            "",
            *(f"- {escaping.markdown(text)}" for text in conditions),
        ]
    else:
        lines += ["", "Measured under the same conditions."]
    return "\n".join(lines) + "\n"


def _csv(rows: "list[Row]", conditions: list[str], every: bool) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    heading = ("cell", "value", "unit", "a", "b", "ratio", "ratio_low", "ratio_high", "basis")
    writer.writerow((*heading, "verdict", "regression", "differs"))
    for row in rows:
        ratio = row.ratio or (None, None, None)
        facts = (row.cell, row.name, row.unit, row.before, row.after, *ratio, row.basis)
        line = (*facts, row.verdict, row.regression, "; ".join(row.differs))
        writer.writerow([escaping.spreadsheet(value) for value in line])
    return stream.getvalue()


def _json(rows: "list[Row]", conditions: list[str], every: bool) -> str:
    found = [asdict(row) | {"regression": row.regression} for row in rows]
    return json.dumps({"conditions": conditions, "rows": found}, indent=1, ensure_ascii=False) + "\n"


def _number(value: float | int | None) -> str:
    if value is None:
        return "—"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _ratio(row: "Row") -> str:
    if row.ratio is None:
        return "—"
    ratio, low, high = row.ratio
    interval = "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"
    return f"{ratio:.3f}{interval}{' ' + row.basis if row.basis else ''}"
