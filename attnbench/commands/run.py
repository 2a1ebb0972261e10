"""``attnbench run``: measure what has no record yet."""

from pathlib import Path
from typing import Any

import click

from attnbench import metrics as metrics_known
from attnbench import registry
from attnbench.commands import _timing, _types
from attnbench.commands._arguments import (
    DEFAULT_OUT,
    before_torch,
    end_of_run,
    plugin_option,
    settings_option,
    warn,
)
from attnbench.commands._timing import timing_options
from attnbench.commands.table import ablation_text as table


@click.command()
@click.option(
    "--mechanisms",
    type=_types.MODELS,
    metavar="A,B",
    help="Comma-separated; also timm_swin.  [default: all]",
)
@click.option(
    "--metrics",
    type=_types.Names("metric", metrics_known.names),
    metavar="A,B",
    help="See 'attnbench list --kind metrics'.  [default: all that need no extra]",
)
@click.option(
    "--layout",
    type=_types.LAYOUT,
    default="swin_t",
    show_default=True,
    help="Layout the mechanisms are dropped into.",
)
@click.option(
    "--device", type=_types.Device(), default="auto", show_default=True, help="cpu, cuda, cuda:N or auto."
)
@click.option(
    "--precision",
    type=_types.PRECISIONS,
    default="fp32,amp",
    show_default=True,
    metavar="A,B",
    help="amp: bfloat16.",
)
@click.option(
    "--modes",
    type=_types.MODES,
    default="infer,train",
    show_default=True,
    metavar="A,B",
    help="infer, train.",
)
@click.option("--batch-size", type=_types.BATCH, metavar="N", help="[default: 1 on CPU, 64 on CUDA]")
@click.option(
    "--resolution", type=_types.RESOLUTION, metavar="N", help="Pixels a side.  [default: the layout's]"
)
@click.option(
    "--impl",
    type=_types.IMPL,
    default="auto",
    show_default=True,
    help="Implementation of the mechanisms.",
)
@settings_option
@click.option(
    "--preset",
    type=_types.OneOf("preset", "quick", "full"),
    default="quick",
    show_default=True,
    help="Repeats and epochs.",
)
@click.option(
    "--seed",
    type=_types.SEED,
    default=0,
    show_default=True,
    metavar="N",
    help="Of weights, inputs and training.",
)
@click.option("--force", is_flag=True, help="Measure again what has a record.")
@click.option(
    "--time-limit",
    type=_types.SECONDS,
    metavar="SECONDS",
    help="Of one cell.  [default: 600; 3600 with full]",
)
@click.option("--in-process", is_flag=True, help="Measure here, not in a fresh process for each cell.")
@click.option(
    "--out",
    type=_types.Folder(),
    default=DEFAULT_OUT,
    show_default=True,
    metavar="DIR",
    help="Where records are kept.",
)
@click.option("--wide", is_flag=True, help="Print all columns, not those that fit into 100 characters.")
@click.option("--columns", type=_types.Words(), metavar="A,B", help="Print these, by their names in a CSV.")
@timing_options
@plugin_option
def command(
    mechanisms: tuple[str, ...] | None,
    metrics: tuple[str, ...] | None,
    layout: str,
    device: str,
    precision: tuple[str, ...],
    modes: tuple[str, ...],
    batch_size: int | None,
    resolution: int | None,
    impl: str,
    settings: dict[str, Any],
    preset: str,
    seed: int,
    force: bool,
    time_limit: int | None,
    in_process: bool,
    out: Path,
    wide: bool,
    columns: tuple[str, ...] | None,
    **timing: Any,
) -> None:
    """Measure what has no record yet, then print the table.

    The metric accuracy trains the small layout swin_pico on images that need no download: a smoke test. What
    mechanisms can do is the subject of 'attnbench probe'.

    Status 3: some cells failed. 1: all did. The reasons are in the records and below the table.
    """
    from attnbench.layouts import get_layout

    of_timing = _timing.read(timing)
    every_row = dict.fromkeys(filter(None, (*registry.names(), of_timing["baseline"])))
    chosen = {
        "mechanisms": mechanisms or tuple(every_row),
        "metrics": metrics
        or tuple(name for name in metrics_known.names() if metrics_known.get(name).default),
        "precisions": precision,
        "modes": modes,
        "layout": layout,
        "resolution": resolution or get_layout(layout).img_size,
        "seed": seed,
        "impl": impl,
        "options": settings,
        "force": force,
        "in_process": in_process,
        "time_limit_s": float(time_limit or 0),
        "out": out,
        **of_timing,
    }
    _run(chosen, bool(mechanisms), device, batch_size or 0, preset, timing, columns or (), wide)


def _run(
    chosen: dict[str, Any],
    named: bool,
    device: str,
    batch: int,
    preset: str,
    timing: dict[str, Any],
    columns: tuple[str, ...],
    wide: bool,
) -> None:
    """The part of ``run`` that needs torch; ``named``: the user chose the mechanisms."""
    before_torch()
    from attnbench.harness.workers import processes

    if not chosen["in_process"]:
        processes.start_server()
    from attnbench.harness import environment
    from attnbench.harness.run import plan, runner
    from attnbench.harness.setting import Flags
    from attnbench.progress import make_progress
    from attnbench.tables.preview import Preview

    where = environment.resolve_device(device)
    flags = Flags(tf32=timing["tf32"], threads=timing["threads"])
    flags.apply()  # before anything asks how many threads there are
    batch = batch or (64 if where.type == "cuda" else 1)
    chosen["mechanisms"] = tuple(
        plan.usable(
            chosen["mechanisms"],
            chosen["impl"],
            chosen["options"],
            skip=not named,
            say=warn,
            in_process=chosen["in_process"],
        )
    )
    effort = _timing.adjusted(plan.PRESETS[preset], timing)
    request = plan.Request(**chosen, device=where, batch_size=batch, preset=effort, flags=flags)
    if timing["aa"]:
        return _timing.put_to_the_test(request, timing)
    records = chosen["out"] / "records"
    preview = Preview(records, chosen, str(where))
    preview.check(columns)
    with make_progress(preview.text) as progress:
        summary = runner.run(request, progress)
    shown = chosen["layout"], chosen["resolution"], str(where)
    click.echo(table(records, *shown, columns, wide, also=chosen["metrics"]))
    before = f", {summary.known} were there already" if summary.known else ""
    click.echo(f"{summary.measured} cells measured{before}; records: {summary.path}")
    end_of_run(summary.failed, summary.measured + summary.known)
