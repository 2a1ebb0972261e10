"""``attnbench table``: records as a table, with what papers print beside them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from attnbench.commands._arguments import (
    DEFAULT_OUT,
    before_torch,
    format_name,
    plugin_option,
    positive,
    warn,
    write,
)
from attnbench.errors import AttnbenchError, UnknownNameError
from attnbench.rungs import AUTHORS, RUNGS

if TYPE_CHECKING:
    from attnbench.record import Measurement
    from attnbench.tables.render import Table

TABLES = ("ablation", "table1", "table5", "table6", "table7", "figure1", "classification")


@click.command()
@click.argument("name")
@click.option("--records", default="", metavar="DIR", help=f"[default: {DEFAULT_OUT}/records]")
@click.option("--format", "form", default="md", show_default=True, help="md, csv, latex or html.")
@click.option("--output", default="", metavar="FILE", help="Write there instead of to the terminal.")
@click.option("--layout", default="", help="ablation: layout to show.  [default: the newest record's]")
@click.option(
    "--resolution", default="", metavar="N", help="ablation: pixels.  [default: the newest record's]"
)
@click.option("--device", default="", help="Device to show.  [default: the newest record's]")
@click.option("--explain", nargs=2, metavar="ROW COLUMN", help="Tell where one cell comes from.")
@click.option("--rung", default="", help="ablation, table5: bare, bias, local or authors (docs/ladder.md).")
@click.option("--fill", is_flag=True, help="Count the parameters and MACs that have no record, first.")
@click.option("--plot", default="", metavar="FILE", help="figure1: draw it (needs matplotlib).")
@plugin_option
def command(
    name: str,
    records: str,
    form: str,
    output: str,
    layout: str,
    resolution: str,
    device: str,
    explain: tuple[str, str] | None,
    rung: str,
    fill: bool,
    plot: str,
) -> None:
    """Render records as the table NAME, or tell where one of its cells comes from.

    NAME is ablation (mechanisms in one layout), or one of BiFormer's tables with the published numbers
    beside ours: table1 (its variants), table5 (attention mechanisms), table6 (from Swin-T to BiFormer, step
    by step), table7 (S and k), figure1 (throughput) or classification.
    """
    if name not in TABLES:
        raise UnknownNameError("table", name, TABLES)
    size = positive("resolution", resolution, 0)
    format_name(form)
    _check(name, layout, size, fill, plot, rung)
    folder = Path(records or f"{DEFAULT_OUT}/records")
    if fill:
        _fill(name, folder, rung)
    found = _read(folder, must=bool(records) or name == "ablation")
    table = _build(name, found, layout, size, device, rung)
    if plot:
        from attnbench.tables.throughput_plot import plot as draw

        draw(table, Path(plot))
    if explain:
        text = _explain(name, table, folder, *explain)
    else:
        from attnbench.tables import render

        text = render.render(table, form)
    if output:
        write(Path(output), text)
    else:
        click.echo(text, nl=False)


def ablation(records: Path, form: str, layout: str | None, resolution: int | None, device: str | None) -> str:
    """The ablation table of records, rendered; ``None`` for what the newest record has."""
    format_name(form)
    from attnbench import certificates, store, tables
    from attnbench.tables import render

    certificates.look_beside(records)
    found = store.read(records, warn)
    return render.render(tables.ablation(found, layout=layout, resolution=resolution, device=device), form)


def _check(name: str, layout: str, size: int, fill: bool, plot: str, rung: str) -> None:
    """Raise AttnbenchError for options that a table does not have."""
    if name != "ablation" and (layout or size):
        raise AttnbenchError(
            f"{name} has its own layouts at 224 px; --layout and --resolution are of ablation"
        )
    if name == "ablation" and fill:
        raise AttnbenchError("ablation shows what there is; 'attnbench run --metrics params,macs' adds to it")
    if rung and rung not in RUNGS:
        raise UnknownNameError("rung", rung, RUNGS)
    if rung and name not in ("ablation", "table5"):
        raise AttnbenchError(f"{name} compares whole models; --rung is of ablation and table5")
    if plot:
        if name != "figure1":
            raise AttnbenchError(f"--plot draws figure1, got {name}; 'attnbench complexity' has a plot too")
        from attnbench.figures import check_plottable

        check_plottable(Path(plot))


def _read(folder: Path, must: bool) -> "list[Measurement]":
    """The records; none, with a warning, where there need not be any."""
    from attnbench import certificates, store

    certificates.look_beside(folder)
    if must or folder.exists():
        return store.read(folder, warn)
    warn(f"no records at {folder}: measured columns are empty; --fill counts parameters and MACs")
    return []


def _build(
    name: str, found: "Sequence[Measurement]", layout: str, size: int, device: str, rung: str
) -> "Table":
    from attnbench import tables

    if name == "ablation":
        return tables.ablation(
            found,
            layout=layout or None,
            resolution=size or None,
            device=device or None,
            rung=rung or AUTHORS,
        )
    from attnbench.tables.paper_table import beside
    from attnbench.tables.papers import get_paper_table

    return beside(get_paper_table(name).on_rung(rung or AUTHORS), found, device or None)


def _fill(name: str, folder: Path, rung: str) -> None:
    """Count what has no record yet, and append it to the records."""
    if folder.name != "records":
        raise AttnbenchError(
            f"--fill appends to a folder called records, got {folder}; give --records DIR/records"
        )
    from attnbench import store
    from attnbench.tables.paper_table import beside, missing_static
    from attnbench.tables.papers import get_paper_table

    spec = get_paper_table(name).on_rung(rung or AUTHORS)
    ours = {line.name: line.model for line in spec.lines() if line.model}
    found = store.read(folder, warn) if folder.exists() else []
    models = [ours[row] for row in missing_static(beside(spec, found), list(ours))]
    if not models:
        return
    before_torch()
    from attnbench.harness.run import counts
    from attnbench.progress import make_progress

    with make_progress() as progress:
        summary = counts.fill(models, folder.parent, progress)
    click.echo(f"{summary.measured} cells counted; records: {summary.path}", err=True)
    for failure in summary.failed:
        click.echo(f"failed: {failure}", err=True)


def _explain(name: str, table: "Table", folder: Path, row: str, column: str) -> str:
    """Where a cell comes from, with the file of its record or the command that would make one."""
    from attnbench.tables import provenance

    lines = [provenance.explain(table, row, column)]
    record = provenance.record_of(table, row, column)
    if record is not None:
        lines.append(f"file: {provenance.file_of(folder, record)}")
    elif provenance.is_missing(table, row, column):
        lines.append(f"to measure it: {_command_for(name, table, folder, row, column)}")
    return "\n".join(lines) + "\n"


def _command_for(name: str, table: "Table", folder: Path, row: str, column: str) -> str:
    from attnbench import metrics
    from attnbench.tables import provenance
    from attnbench.tables.paper_table import commands
    from attnbench.tables.papers import get_paper_table

    metric, place = provenance.metric_of(table, column), provenance.row_name(table, row)
    out = "" if folder == Path(f"{DEFAULT_OUT}/records") else str(folder.parent)
    if name == "ablation":
        mechanism = place.partition("[")[0]
        return f"attnbench run --layout {table.layout} --mechanisms {mechanism} --metrics {metric}"
    found = commands(get_paper_table(name), [place], metric, out)
    if not found:
        return "not a model of attnbench, so nothing can be"
    if not metrics.get(metric).on_machine:
        return f"attnbench table {name} --fill" + (f" --records {folder}" if out else "")
    return found[0]
