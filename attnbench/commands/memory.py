"""``attnbench memory``: what the peak of a step consists of, over resolutions."""

from pathlib import Path

import click

from attnbench import baselines, registry
from attnbench.commands._arguments import before_torch, choice, names, option, plugin_option, positive, write
from attnbench.errors import AttnbenchError

FORMATS = ("md", "csv", "json")


@click.command()
@click.argument("mechanism")
@click.option("--resolutions", default="", metavar="A,B", help="Pixels a side.  [default: the layout's]")
@click.option("--layout", default="swin_t", show_default=True, help="Layout the mechanism is dropped into.")
@click.option("--mode", default="train", show_default=True, help="infer or train.")
@click.option("--precision", default="fp32", show_default=True, help="fp32, or amp (bfloat16).")
@click.option("--batch-size", default="", metavar="N", help="[default: 1 on CPU, 64 on CUDA]")
@click.option("--impl", default="auto", show_default=True, help="Implementation of the mechanism.")
@click.option("--set", "settings", multiple=True, metavar="OPTION=VALUE", help="Option of the mechanism.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N or auto.")
@click.option("--estimate", is_flag=True, help="Run nothing: estimates only, whatever memory there is.")
@click.option("--format", "form", default="md", show_default=True, help="md, csv or json.")
@click.option("--output", default="", metavar="FILE", help="Write there instead of printing.")
@click.option("--plot", default="", metavar="FILE", help="Draw it (needs matplotlib).")
@plugin_option
def command(
    mechanism: str,
    resolutions: str,
    layout: str,
    mode: str,
    precision: str,
    batch_size: str,
    impl: str,
    settings: tuple[str, ...],
    device: str,
    estimate: bool,
    form: str,
    output: str,
    plot: str,
) -> None:
    """Split the peak memory of a step with MECHANISM by kind, measured and estimated.

    Weights, gradients, optimiser state, inputs, what autograd saves and workspace add up to the peak; the
    largest single allocation stands with the line that made it. A step that would not fit is estimated only.
    """
    from attnbench.layouts import get_layout

    for kind, text, known in (
        ("mode", mode, ("infer", "train")),
        ("precision", precision, ("fp32", "amp")),
        ("format", form, FORMATS),
    ):
        choice(kind, text, known)
    if not baselines.is_baseline(mechanism):
        names("mechanism", mechanism, registry.names())
    elif impl != "auto" or settings:
        raise AttnbenchError(f"{mechanism} is a reference model: it takes no --impl and no --set")
    sides = [positive("resolutions", part, 0) for part in resolutions.split(",") if part.strip()]
    sides = sides or [get_layout(layout).img_size]
    batch, options = positive("batch-size", batch_size, 0), dict(option(setting) for setting in settings)
    before_torch()
    from attnbench.harness import environment
    from attnbench.harness.memory import listing, sweep
    from attnbench.harness.setting import Setting
    from attnbench.record import Cell

    where = environment.resolve_device(device)
    batch = batch or (64 if where.type == "cuda" else 1)
    cell = Cell(
        mechanism=mechanism,
        layout=layout,
        metric="memory",
        mode=mode,
        precision=precision,
        resolution=sides[0],
        batch_size=batch,
        impl=impl,
        options=options,
        device=str(where),
    )
    setting = Setting(where, mode, precision, batch, sides[0])
    points = []
    for point in sweep.sweep(cell, setting, sides, only_estimate=estimate):
        click.echo(f"{point.resolution} px done", err=True)
        points.append(point)
    if plot:
        listing.plot(points, f"{cell.row} in {layout}, {mode} {precision}, batch {batch}", Path(plot))
    table = listing.render(points, form)
    if output:
        write(Path(output), table + "\n")
    else:
        click.echo(table)
