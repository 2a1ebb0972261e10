"""``attnbench ablate``: a grid of options, layouts, resolutions, ..., measured where it has no records."""

import sys
from pathlib import Path

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


@click.command()
@click.argument("file", metavar="FILE.toml")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N or auto.")
@click.option("--out", default=DEFAULT_OUT, show_default=True, metavar="DIR", help="Where records are kept.")
@click.option("--format", "form", default="md", show_default=True, help="md, csv, latex or html.")
@click.option("--output", default="", metavar="FILE", help="Write the table there instead of printing it.")
@click.option("--plot", default="", metavar="FILE", help="Draw the figure (needs matplotlib).")
@click.option("--only-show", is_flag=True, help="Measure nothing: table and figure of what there is.")
@click.option("--force", is_flag=True, help="Measure again what has a record.")
@click.option("--time-limit", default="", metavar="SECONDS", help="Of one cell.  [default: the recipe's]")
@click.option("--in-process", is_flag=True, help="Measure here, not in a fresh process for each cell.")
@plugin_option
def command(
    file: str,
    device: str,
    out: str,
    form: str,
    output: str,
    plot: str,
    only_show: bool,
    force: bool,
    time_limit: str,
    in_process: bool,
) -> None:
    """Measure the cells of the grid FILE.toml that have no record yet, then print its table.

    A killed run goes on with the same command. A cell that failed has a record too: the table's notes and the
    figure say why. Examples: examples/ablations; what a file may say: docs/ablations.md.
    """
    from attnbench import grids

    grid = grids.read(Path(file))
    format_name(form)
    limit = float(positive("time-limit", time_limit, 0))
    if plot:
        from attnbench.figures import check_plottable

        check_plottable(Path(plot))
    before_torch()
    from attnbench.harness.workers import processes

    if not (in_process or only_show):
        processes.start_server()
    from attnbench import store
    from attnbench.harness import environment
    from attnbench.harness.run import combinations
    from attnbench.progress import make_progress
    from attnbench.tables import render
    from attnbench.tables.ablated import ablated

    place = combinations.Place(Path(out), environment.resolve_device(device), in_process, limit, force)
    plan = combinations.planned(grid, place)
    total = len({cell.key() for own in plan.cells for cell in own})
    measured, failed = 0, []
    if not only_show:
        with make_progress() as progress:
            summary = combinations.measure(plan.requests, progress)
        measured, failed = summary.measured, summary.failed
    table = ablated(grid, plan.cells, store.read(Path(out) / "records", warn))
    if plot:
        from attnbench.tables.ablated_plot import plot as draw

        draw(grid, table, Path(plot))
    text = render.render(table, form)
    if output:
        write(Path(output), text)
    else:
        click.echo(text)
    click.echo(f"{total} cells in the grid; {measured} measured now; records: {Path(out) / 'records'}")
    for failure in failed:
        click.echo(f"failed: {failure}", err=True)
    if failed and len(failed) == measured:
        sys.exit(1)
