"""``attnbench explain``: why a mechanism is slower than its MACs."""

import json
from pathlib import Path
from typing import Any

import click

from attnbench import baselines, registry
from attnbench.commands._arguments import (
    before_torch,
    choice,
    names,
    option,
    plugin_option,
    positive,
    warn,
    write,
)
from attnbench.errors import AttnbenchError

FORMATS = ("text", "md", "json")


@click.command()
@click.argument("mechanism")
@click.option(
    "--baseline", default=baselines.BASELINE, show_default=True, help="Compared with; none: nothing."
)
@click.option("--layout", default="swin_t", show_default=True, help="Layout the mechanism is dropped into.")
@click.option("--mode", default="infer", show_default=True, help="infer or train.")
@click.option("--precision", default="fp32", show_default=True, help="fp32, or amp (bfloat16).")
@click.option("--batch-size", default="", metavar="N", help="[default: 1 on CPU, 64 on CUDA]")
@click.option("--resolution", default="", metavar="N", help="Pixels a side.  [default: the layout's]")
@click.option("--impl", default="auto", show_default=True, help="Implementation of the mechanism.")
@click.option("--set", "settings", multiple=True, metavar="OPTION=VALUE", help="Option of the mechanism.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N or auto.")
@click.option("--seconds", default="8", show_default=True, metavar="N", help="To measure for.")
@click.option("--format", "form", default="text", show_default=True, help="text, md or json.")
@click.option("--output", default="", metavar="FILE", help="Write there instead of printing.")
@click.option("--plot", default="", metavar="FILE", help="Draw the roofline (needs matplotlib).")
@plugin_option
def command(
    mechanism: str,
    baseline: str,
    layout: str,
    mode: str,
    precision: str,
    batch_size: str,
    resolution: str,
    impl: str,
    settings: tuple[str, ...],
    device: str,
    seconds: str,
    form: str,
    output: str,
    plot: str,
) -> None:
    """Say why MECHANISM is slower (or faster) than its MACs, beside a baseline.

    Every operator of a step is recorded with its MACs, bytes and the line that called it, and timed; sums by
    phase and block stand beside the two ceilings of this device, measured a moment before. docs/explain.md.
    """
    from attnbench.layouts import get_layout

    for kind, text, known in (
        ("mode", mode, ("infer", "train")),
        ("precision", precision, ("fp32", "amp")),
        ("format", form, FORMATS),
    ):
        choice(kind, text, known)
    for name in filter(None, (mechanism, baseline if baseline != "none" else "")):
        if not baselines.is_baseline(name):
            names("mechanism", name, registry.names())
    side = positive("resolution", resolution, get_layout(layout).img_size)
    budget = positive("seconds", seconds, 8)
    batch = positive("batch-size", batch_size, 0)
    options = dict(option(setting) for setting in settings)
    if baselines.is_baseline(mechanism) and (impl != "auto" or options):
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
        "resolution": side,
        "batch_size": batch or (64 if where.type == "cuda" else 1),
        "device": str(where),
    }
    other = baseline if baseline not in ("none", mechanism) else ""
    chosen = {"mechanism": mechanism, "impl": impl, "options": options}
    _explain(chosen, other, conditions, budget, form, output, plot)


def _explain(
    chosen: dict[str, Any],
    baseline: str,
    conditions: dict[str, Any],
    budget: float,
    form: str,
    output: str,
    plot: str,
) -> None:
    """The part that needs torch."""
    import torch

    from attnbench.harness.explain import gap, text
    from attnbench.harness.explain.plot import roofline
    from attnbench.harness.setting import Setting
    from attnbench.record import Cell

    cell = Cell(**chosen, **conditions)
    setting = Setting(torch.device(cell.device), cell.mode, cell.precision, cell.batch_size, cell.resolution)
    found = gap.compare(
        cell,
        Cell(mechanism=baseline, **conditions) if baseline else None,
        setting,
        gap.Effort(budget_s=budget),
        say=lambda what: click.echo(f"{what} ...", err=True),
    )
    if plot:
        roofline(found, Path(plot))
    if abs(found.subject.outside_s) > 0.05 * found.subject.step_s:
        warn(
            f"operators account for {found.subject.total.seconds / found.subject.step_s:.0%} of the step; "
            "the machine is busy with something else, or --seconds is too short"
        )
    shown = json.dumps(text.content(found), indent=1) if form == "json" else text.markdown(found)
    if output:
        write(Path(output), shown + "\n")
    else:
        click.echo(shown)
