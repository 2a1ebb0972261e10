"""``attnbench table``: records as a table, with what papers print beside them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from attnbench.commands import _types
from attnbench.commands._arguments import (
    DEFAULT_OUT,
    before_torch,
    deliver,
    output_option,
    plugin_option,
    records_option,
    warn,
)
from attnbench.errors import AttnbenchError, UnknownNameError
from attnbench.rungs import AUTHORS, RUNGS

if TYPE_CHECKING:
    from attnbench.record import Measurement
    from attnbench.tables.render import Table

DENSE = ("ade20k", "coco")
PAPERS = ("table1", "table5", "table6", "table7", "figure1", "classification")
TABLES = ("ablation", "machines", *PAPERS, *DENSE, "scenes")


@click.command()
@click.argument("name", type=_types.OneOf("table", *TABLES))
@records_option
@click.option(
    "--format",
    "form",
    type=_types.OneOf("format", "text", *_types.TABLE_FORMAT.choices),
    default="text",
    show_default=True,
)
@click.option("--wide", is_flag=True, help="text: all columns, not those that fit into 100 characters.")
@click.option("--columns", type=_types.Words(), metavar="A,B", help="text: these, by their names in a CSV.")
@output_option
@click.option(
    "--layout",
    type=_types.Word(),
    help="ablation: layout to show.  [default: that of most records]",
)
@click.option(
    "--resolution",
    type=_types.RESOLUTION,
    metavar="N",
    help="ablation: pixels.  [default: the newest record's]",
)
@click.option(
    "--device", type=_types.Device(auto=False), help="Device to show.  [default: the newest record's]"
)
@click.option(
    "--explain",
    type=_types.Word(),
    nargs=2,
    metavar="ROW COLUMN",
    help="Tell where one cell comes from.",
)
@click.option("--rung", type=_types.OneOf("rung", *RUNGS), help="ablation, table5: see docs/ladder.md.")
@click.option("--fill", is_flag=True, help="Count the parameters and MACs that have no record, first.")
@click.option("--plot", type=_types.Plot(), metavar="FILE", help="figure1: draw it (needs matplotlib).")
@plugin_option
def command(
    name: str,
    records: Path | None,
    form: str,
    wide: bool,
    columns: tuple[str, ...] | None,
    output: Path | None,
    layout: str | None,
    resolution: int | None,
    device: str | None,
    explain: tuple[str, str] | None,
    rung: str | None,
    fill: bool,
    plot: Path | None,
) -> None:
    """Render records as the table NAME, or tell where one of its cells comes from.

    NAME is ablation (mechanisms in one layout), machines (the same, measured on several, whose columns
    stand side by side), or one of BiFormer's tables with the published numbers
    beside ours: table1 (its variants), table5 (attention mechanisms), table6 (from Swin-T to BiFormer, step
    by step), table7 (S and k), figure1 (throughput), classification, ade20k or coco. scenes is what was
    trained on the generated scenes.
    """
    if form != "text" and (wide or columns):
        raise AttnbenchError(f"--wide and --columns are of --format text; {form} has all columns")
    _check(name, bool(layout or resolution), fill, plot, rung)
    folder = records or Path(f"{DEFAULT_OUT}/records")
    if fill:
        _fill(name, folder, rung or AUTHORS)
    found = _read(folder, must=bool(records) or name in ("ablation", "machines"))
    devices = {m.cell.device for m in found}
    if device and device not in devices:
        raise UnknownNameError("device among the records", device, devices - {"meta"})
    table = _build(name, found, layout, resolution, device, rung or AUTHORS)
    if plot:
        _plot(table, plot)
    if explain:
        text = _explain(name, table, folder, *explain)
    elif form == "text" and name != "machines":
        from attnbench.tables.narrow import as_text

        text = as_text(table, columns=columns or (), wide=wide)
    else:
        from attnbench.tables import render

        # The narrow form tells columns apart by what they measure, not by where.
        text = render.render(table, "md" if form == "text" else form)
    deliver(text, output)


def _plot(table: "Table", path: Path) -> None:
    from attnbench.figures import figure1, save_figure

    figure = figure1.draw(table)
    if figure is None:
        raise AttnbenchError("Figure 1 has neither a printed nor a measured throughput to draw")
    save_figure(figure, path)


def ablation_text(
    records: Path,
    layout: str,
    resolution: int,
    device: str,
    columns: Sequence[str],
    wide: bool,
    also: Sequence[str] = (),
) -> str:
    """The ablation table of records, as text that fits; ``also``: metrics shown only if asked for."""
    from attnbench import certificates, store, tables
    from attnbench.tables.narrow import as_text

    certificates.look_beside(records)
    found = store.read(records, warn)
    table = tables.ablation(found, layout=layout, resolution=resolution, device=device, also=also)
    return as_text(table, columns=columns, wide=wide)


def _check(name: str, sized: bool, fill: bool, plot: Path | None, rung: str | None) -> None:
    """Raise AttnbenchError for options that a table does not have."""
    if name not in ("ablation", "machines") and sized:
        raise AttnbenchError(
            f"{name} has its own layouts and sizes; --layout and --resolution are of ablation"
        )
    if name in ("ablation", "machines") and fill:
        raise AttnbenchError(f"{name} shows what there is; 'attnbench run --metrics params,macs' adds to it")
    if name == "scenes" and fill:
        raise AttnbenchError("scenes shows what there is; 'attnbench train --data scenes' adds to it")
    if rung and name not in ("ablation", "table5"):
        raise AttnbenchError(f"{name} compares whole models; --rung is of ablation and table5")
    if plot and name != "figure1":
        raise AttnbenchError(f"--plot draws figure1, got {name}; 'attnbench complexity' has a plot too")


def _read(folder: Path, must: bool) -> "list[Measurement]":
    """The records; none, with a warning, where there need not be any."""
    from attnbench import certificates, store

    certificates.look_beside(folder)
    if must or folder.exists():
        return store.read(folder, warn)
    warn(f"no records at {folder}: measured columns are empty; --fill counts parameters and MACs")
    return []


def _build(
    name: str,
    found: "Sequence[Measurement]",
    layout: str | None,
    size: int | None,
    device: str | None,
    rung: str,
) -> "Table":
    from attnbench import tables

    if name == "ablation":
        return tables.ablation(
            found,
            layout=layout,
            resolution=size,
            device=device,
            rung=rung,
        )
    if name == "scenes":
        from attnbench.tables.scenes_table import scenes_table

        return scenes_table(found)
    if name in DENSE:
        from attnbench.tables.dense_table import DENSE_TABLES, beside_dense

        return beside_dense(DENSE_TABLES[name], found, device)
    if name == "machines":
        from attnbench.tables.machines import machines

        return machines(found, layout=layout, resolution=size)
    from attnbench.tables.paper_table import rebuilt
    from attnbench.tables.papers import get_paper_table

    return rebuilt(get_paper_table(name).on_rung(rung), found, device)


def _fill(name: str, folder: Path, rung: str) -> None:
    """Count what has no record yet, and append it to the records."""
    if folder.name != "records":
        raise AttnbenchError(
            f"--fill appends to a folder called records, got {folder}; give --records DIR/records"
        )
    from attnbench import store

    found = store.read(folder, warn) if folder.exists() else []
    names: tuple[str, ...] = ()
    if name in DENSE:
        from attnbench.tables.dense_table import DENSE_TABLES, uncounted

        models, names = uncounted(DENSE_TABLES[name], found)
    else:
        from attnbench.tables.paper_table import missing_static, rebuilt
        from attnbench.tables.papers import get_paper_table

        spec = get_paper_table(name).on_rung(rung)
        ours = {line.name: line.model for line in spec.lines() if line.model}
        models = [ours[row] for row in missing_static(rebuilt(spec, found), list(ours))]
    if not models:
        return
    before_torch()
    from attnbench.harness.run import counts
    from attnbench.progress import make_progress

    with make_progress() as progress:
        summary = counts.fill(models, folder.parent, progress, names)
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
    if name in (*DENSE, "scenes"):
        from attnbench.tables.dense_table import command_for

        return command_for(name, metric, place)
    found = commands(get_paper_table(name), [place], metric, out)
    if not found:
        return "not a model of attnbench, so nothing can be"
    if not metrics.get(metric).on_machine:
        return f"attnbench table {name} --fill" + (f" --records {folder}" if out else "")
    return found[0]
