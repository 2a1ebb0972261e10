"""``attnbench memory``: what the peak of a step consists of, over resolutions."""

from pathlib import Path
from typing import Any

import click

from attnbench import baselines
from attnbench.commands import _types
from attnbench.commands._arguments import (
    before_torch,
    deliver,
    end_of_run,
    output_option,
    plugin_option,
    settings_option,
)
from attnbench.errors import AttnbenchError


@click.command()
@click.argument("mechanism", type=_types.MODEL)
@click.option(
    "--resolutions",
    type=_types.Wholes(1, 2**16),
    metavar="A,B",
    help="Pixels a side.  [default: the layout's]",
)
@click.option(
    "--layout",
    type=_types.LAYOUT,
    default="swin_t",
    show_default=True,
    help="Layout the mechanism is dropped into.",
)
@click.option("--mode", type=_types.MODE, default="train", show_default=True)
@click.option(
    "--precision", type=_types.PRECISION, default="fp32", show_default=True, help="amp is bfloat16."
)
@click.option("--batch-size", type=_types.BATCH, metavar="N", help="[default: 1 on CPU, 64 on CUDA]")
@click.option(
    "--impl", type=_types.IMPL, default="auto", show_default=True, help="Implementation of the mechanism."
)
@settings_option
@click.option(
    "--device", type=_types.Device(), default="auto", show_default=True, help="cpu, cuda, cuda:N or auto."
)
@click.option("--estimate", is_flag=True, help="Run nothing: estimates only, whatever memory there is.")
@click.option(
    "--format", "form", type=_types.OneOf("format", "md", "csv", "json"), default="md", show_default=True
)
@output_option
@click.option("--plot", type=_types.Plot(), metavar="FILE", help="Draw it (needs matplotlib).")
@plugin_option
def command(
    mechanism: str,
    resolutions: tuple[int, ...] | None,
    layout: str,
    mode: str,
    precision: str,
    batch_size: int | None,
    impl: str,
    settings: dict[str, Any],
    device: str,
    estimate: bool,
    form: str,
    output: Path | None,
    plot: Path | None,
) -> None:
    """Split the peak memory of a step with MECHANISM by kind, measured and estimated.

    Weights, gradients, optimiser state, inputs, what autograd saves and workspace add up to the peak; the
    largest single allocation stands with the line that made it. A step that would not fit is estimated only.
    """
    from attnbench.layouts import get_layout

    if baselines.is_baseline(mechanism) and (impl != "auto" or settings):
        raise AttnbenchError(f"{mechanism} is a reference model: it takes no --impl and no --set")
    sides = list(resolutions or [get_layout(layout).img_size])
    before_torch()
    from attnbench.harness import environment
    from attnbench.harness.memory import listing, sweep
    from attnbench.harness.models.build import check_buildable
    from attnbench.harness.setting import Setting
    from attnbench.record import Cell

    where = environment.resolve_device(device)
    batch = batch_size or (64 if where.type == "cuda" else 1)
    cell = Cell(
        mechanism=mechanism,
        layout=layout,
        metric="memory",
        mode=mode,
        precision=precision,
        resolution=sides[0],
        batch_size=batch,
        impl=impl,
        options=settings,
        device=str(where),
    )
    check_buildable(cell)
    setting = Setting(where, mode, precision, batch, sides[0])
    points = []
    for point in sweep.sweep(cell, setting, sides, only_estimate=estimate):
        click.echo(f"{point.resolution} px done", err=True)
        points.append(point)
    if plot:
        listing.plot(points, f"{cell.row} in {layout}, {mode} {precision}, batch {batch}", plot)
    deliver(listing.render(points, form) + "\n", output)
    end_of_run([f"{point.resolution} px: {point.missing}" for point in points if point.failed], len(points))
