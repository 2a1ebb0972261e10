"""``attnbench explain``: why a mechanism is slower than its MACs."""

import json
from pathlib import Path
from typing import Any

import click

from attnbench import baselines
from attnbench.commands import _types
from attnbench.commands._arguments import (
    before_torch,
    deliver,
    output_option,
    plugin_option,
    settings_option,
    warn,
)
from attnbench.errors import AttnbenchError


@click.command()
@click.argument("mechanism", type=_types.MODEL)
@click.option(
    "--baseline",
    type=_types.BASELINE,
    default=baselines.BASELINE,
    show_default=True,
    help="Compared with; none: nothing.",
)
@click.option(
    "--layout",
    type=_types.LAYOUT,
    default="swin_t",
    show_default=True,
    help="Layout the mechanism is dropped into.",
)
@click.option("--mode", type=_types.MODE, default="infer", show_default=True)
@click.option(
    "--precision", type=_types.PRECISION, default="fp32", show_default=True, help="amp is bfloat16."
)
@click.option("--batch-size", type=_types.BATCH, metavar="N", help="[default: 1 on CPU, 64 on CUDA]")
@click.option(
    "--resolution", type=_types.RESOLUTION, metavar="N", help="Pixels a side.  [default: the layout's]"
)
@click.option(
    "--impl", type=_types.IMPL, default="auto", show_default=True, help="Implementation of the mechanism."
)
@settings_option
@click.option(
    "--device", type=_types.Device(), default="auto", show_default=True, help="cpu, cuda, cuda:N or auto."
)
@click.option(
    "--seconds", type=_types.SECONDS, default=8, show_default=True, metavar="N", help="To measure for."
)
@click.option(
    "--format", "form", type=_types.OneOf("format", "text", "md", "json"), default="text", show_default=True
)
@output_option
@click.option("--plot", type=_types.Plot(), metavar="FILE", help="Draw the roofline (needs matplotlib).")
@plugin_option
def command(
    mechanism: str,
    baseline: str,
    layout: str,
    mode: str,
    precision: str,
    batch_size: int | None,
    resolution: int | None,
    impl: str,
    settings: dict[str, Any],
    device: str,
    seconds: int,
    form: str,
    output: Path | None,
    plot: Path | None,
) -> None:
    """Say why MECHANISM is slower (or faster) than its MACs, beside a baseline.

    Every operator of a step is recorded with its MACs, bytes and the line that called it, and timed; sums by
    phase and block stand beside the two ceilings of this device, measured a moment before. docs/explain.md.
    """
    from attnbench.layouts import get_layout

    if baselines.is_baseline(mechanism) and (impl != "auto" or settings):
        raise AttnbenchError(f"{mechanism} is a reference model: it takes no --impl and no --set")
    before_torch()
    from attnbench.harness import environment
    from attnbench.harness.setting import Flags

    where = environment.resolve_device(device)
    environment.pin_allocator()
    Flags().apply()
    conditions: dict[str, Any] = {
        "layout": layout,
        "metric": "explain",
        "mode": mode,
        "precision": precision,
        "resolution": resolution or get_layout(layout).img_size,
        "batch_size": batch_size or (64 if where.type == "cuda" else 1),
        "device": str(where),
    }
    other = baseline if baseline not in ("none", mechanism) else ""
    chosen = {"mechanism": mechanism, "impl": impl, "options": settings}
    _explain(chosen, other, conditions, seconds, form, output, plot)


def _explain(
    chosen: dict[str, Any],
    baseline: str,
    conditions: dict[str, Any],
    budget: float,
    form: str,
    output: Path | None,
    plot: Path | None,
) -> None:
    """The part that needs torch."""
    import torch

    from attnbench.harness.explain import gap, text
    from attnbench.harness.explain.plot import roofline
    from attnbench.harness.models.build import check_buildable
    from attnbench.harness.setting import Setting
    from attnbench.record import Cell

    cell = Cell(**chosen, **conditions)
    check_buildable(cell)
    setting = Setting(torch.device(cell.device), cell.mode, cell.precision, cell.batch_size, cell.resolution)
    found = gap.compare(
        cell,
        Cell(mechanism=baseline, **conditions) if baseline else None,
        setting,
        gap.Effort(budget_s=budget),
        say=lambda what: click.echo(f"{what} ...", err=True),
    )
    if plot:
        roofline(found, plot)
    if abs(found.subject.outside_s) > 0.05 * found.subject.step_s:
        warn(
            f"operators account for {found.subject.total.seconds / found.subject.step_s:.0%} of the step; "
            "the machine is busy with something else, or --seconds is too short"
        )
    shown = json.dumps(text.content(found), indent=1) if form == "json" else text.markdown(found)
    deliver(shown + "\n", output)
