"""``attnbench ablate``: a grid of options, layouts, resolutions, ..., measured where it has no records."""

from pathlib import Path

import click

from attnbench.commands import _types
from attnbench.commands._arguments import (
    DEFAULT_OUT,
    before_torch,
    deliver,
    end_of_run,
    output_option,
    plugin_option,
    warn,
)


@click.command()
@click.argument("file", type=_types.Existing("file"), metavar="FILE.toml")
@click.option(
    "--device", type=_types.Device(), default="auto", show_default=True, help="cpu, cuda, cuda:N or auto."
)
@click.option(
    "--out",
    type=_types.Folder(),
    default=DEFAULT_OUT,
    show_default=True,
    metavar="DIR",
    help="Where records are kept.",
)
@click.option("--format", "form", type=_types.TABLE_FORMAT, default="md", show_default=True)
@output_option
@click.option("--plot", type=_types.Plot(), metavar="FILE", help="Draw the figure (needs matplotlib).")
@click.option("--only-show", is_flag=True, help="Measure nothing: table and figure of what there is.")
@click.option("--force", is_flag=True, help="Measure again what has a record.")
@click.option(
    "--time-limit",
    type=_types.SECONDS,
    metavar="SECONDS",
    help="Of one cell.  [default: the recipe's]",
)
@click.option("--in-process", is_flag=True, help="Measure here, not in a fresh process for each cell.")
@plugin_option
def command(
    file: Path,
    device: str,
    out: Path,
    form: str,
    output: Path | None,
    plot: Path | None,
    only_show: bool,
    force: bool,
    time_limit: int | None,
    in_process: bool,
) -> None:
    """Measure the cells of the grid FILE.toml that have no record yet, then print its table.

    A killed run goes on with the same command. A cell that failed has a record too: the table's notes and the
    figure say why. Examples: examples/ablations; what a file may say: docs/ablations.md.
    """
    from attnbench import grids

    grid = grids.read(file)
    before_torch()
    from attnbench.harness.workers import processes

    if not (in_process or only_show):
        processes.start_server()
    from attnbench import certificates, store
    from attnbench.harness import environment
    from attnbench.harness.run import combinations
    from attnbench.progress import make_progress
    from attnbench.tables import render
    from attnbench.tables.ablated import ablated

    place = combinations.Place(
        out, environment.resolve_device(device), in_process, float(time_limit or 0), force
    )
    plan = combinations.planned(grid, place)
    total = len({cell.key() for own in plan.cells for cell in own})
    measured, failed = 0, []
    if not only_show:
        with make_progress() as progress:
            summary = combinations.measure(plan.requests, progress)
        measured, failed = summary.measured, summary.failed
    certificates.look_beside(out / "records")
    table = ablated(grid, plan.cells, store.read(out / "records", warn))
    if plot:
        from attnbench.figures.ablated import plot as draw

        draw(grid, table, plot)
    deliver(render.render(table, form), output)
    click.echo(f"{total} cells in the grid; {measured} measured now; records: {out / 'records'}")
    end_of_run(failed, total)
