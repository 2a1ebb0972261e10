"""Options of ``attnbench run`` that concern timing, and ``--aa``: the timing put to the test."""

from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING, Any, TypeVar

import click

from attnbench import baselines
from attnbench.commands import _types
from attnbench.errors import AttnbenchError

if TYPE_CHECKING:
    from attnbench.harness.run.plan import Preset, Request
    from attnbench.harness.timing.aa import Run

Command = TypeVar("Command", bound=Callable[..., Any])
REGIMES = ("fixed", "largest", "latency")
_OPTIONS = (
    click.option(
        "--baseline",
        type=_types.BASELINE,
        default=baselines.BASELINE,
        show_default=True,
        metavar="NAME",
        help="What speeds are compared with: a reference or a mechanism; none for no comparison.",
    ),
    click.option(
        "--regime",
        type=_types.Names("regime", REGIMES),
        default="fixed",
        show_default=True,
        metavar="A,B",
        help="Batch for throughput: fixed, largest that fits, latency (of one image).",
    ),
    click.option(
        "--threads",
        type=_types.THREADS,
        metavar="N",
        help="Of torch on a CPU, at most the CPUs there are.  [default: torch's choice]",
    ),
    click.option("--tf32", is_flag=True, help="Allow TF32, in matrix products and convolutions alike."),
    click.option(
        "--budget",
        type=_types.SECONDS,
        metavar="SECONDS",
        help="For each group's blocks.  [default: the preset's]",
    ),
    click.option(
        "--processes",
        type=_types.Whole(1, 1000),
        metavar="N",
        help="Of each candidate, one after another.  [default: 1 with quick, 6 with full]",
    ),
    click.option("--aa", is_flag=True, help="Compare the baseline with itself: how often is that an alarm?"),
    click.option("--runs", type=_types.Whole(1, 10**6), metavar="N", help="With --aa.  [default: 20]"),
)


def timing_options(command: Command) -> Command:
    """Add the options; the command takes them as keyword arguments."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def read(values: dict[str, Any]) -> dict[str, Any]:
    """The options as fields of a request, but for ``flags``, which need torch.

    Raises:
        AttnbenchError: options that do not go together.
    """
    baseline = values["baseline"]
    if values["aa"] and baseline == "none":
        raise AttnbenchError("--aa compares the baseline with itself: give one with --baseline NAME")
    if values["runs"] and not values["aa"]:
        raise AttnbenchError("--runs belongs to --aa: give both, or neither")
    return {
        "baseline": "" if baseline == "none" else baseline,
        "regimes": values["regime"],
    }


def adjusted(preset: "Preset", values: dict[str, Any]) -> "Preset":
    """The preset, with another number of processes, or another budget and as many blocks as fit into it."""
    effort = preset.effort
    if values["processes"]:
        effort = replace(effort, processes=values["processes"])
    if values["budget"]:
        effort = replace(effort, budget_s=float(values["budget"]), max_blocks=100_000)
    return replace(preset, effort=effort)


def put_to_the_test(request: "Request", values: dict[str, Any]) -> None:
    """``--aa``: print the rate of false alarms.

    Raises:
        AttnbenchError: it is above 5 %.
    """
    rate = _real(request, values)
    if rate > 0.05:
        raise AttnbenchError(
            f"a model differs from itself in {rate:.1%} of the runs, where 5 % are allowed; "
            "quieten the machine, or distrust small differences"
        )


def _real(request: "Request", values: dict[str, Any]) -> float:
    """Runs on this machine: thirty processes of each copy and about a minute a run, unless told."""
    from attnbench.harness import environment
    from attnbench.harness.run import plan
    from attnbench.harness.run.candidates import Candidates
    from attnbench.harness.timing import aa
    from attnbench.harness.timing.blocks import Effort
    from attnbench.progress import QuietProgress

    environment.pin_allocator()
    planned = plan.plan(replace(request, metrics=("throughput",)))
    cell = next(cell for cell in planned if cell.mechanism == request.baseline)
    processes = 1 if request.in_process else values["processes"] or 30
    effort = Effort(0.5, 18, 100_000, float(values["budget"] or 32), processes=processes)
    runs: list[Run] = []
    found = aa.real(
        cell,
        lambda: Candidates(request),
        effort,
        values["runs"] or 20,
        QuietProgress(),
    )
    for run in found:
        runs.append(run)
        click.echo(
            f"{len(runs):>3}: ratio {run.ratio:.4f}, 95 % interval {run.low:.4f} to {run.high:.4f} "
            f"after {run.blocks} blocks in {processes} processes each: {run.verdict}"
        )
    click.echo(f"{cell}, {request.layout}, batch {cell.batch_size}, against itself: {_summary(runs)}")
    click.echo(f"the harness's own share of the time: {median(run.harness_share for run in runs):.1%}")
    return aa.rate(runs)


def _summary(runs: "list[Run]") -> str:
    alarms, missed = sum(run.alarm for run in runs), sum(run.missed for run in runs)
    widths = [run.half_width for run in runs]
    return (
        f"{alarms} false alarms in {len(runs)} runs ({alarms / len(runs):.1%}); 1 lies outside {missed} of "
        f"the intervals ({missed / len(runs):.1%}); they are ±{median(widths):.1%}, at most "
        f"±{max(widths):.1%}"
    )
