"""Is a ratio under ``attnbench run`` that of a plain loop? Both are measured in turn, process by process.

A plain loop is what a user writes: one process, two models, no isolation, steps of one model in a row until
its turn ends. It shares with the harness the models, the images and the allocator's setting, and nothing of
the timing. Each pair of processes gives two ratios of the mechanism's speed to the baseline's; over several
they give two intervals and, since they were taken in turn, one of how far the harness is from the loop.

    python -m attnbench.results.scripts.plain_loop bra --layout swin_pico --threads 2
"""

import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import click
import torch

from attnbench import baselines, statistics
from attnbench.errors import AttnbenchError
from attnbench.harness import environment
from attnbench.harness.models.build import build
from attnbench.harness.run import plan
from attnbench.harness.run.candidates import Candidates
from attnbench.harness.setting import Flags, Setting, Workload
from attnbench.harness.timing.blocks import Effort
from attnbench.harness.timing.group import Group, measure
from attnbench.harness.workers.isolation import Worker
from attnbench.layouts import get_layout
from attnbench.progress import QuietProgress
from attnbench.record import Cell

_TURN_S = 0.5
"""A turn of one model in the plain loop."""


class PlainLoop:
    """Two models in one process, each run in a loop.

    Args:
        cells: of the mechanism and the baseline.
        flags: as under the harness.
    """

    def __init__(self, cells: list[Cell], flags: Flags) -> None:
        flags.apply()
        self.steps = []
        for cell in cells:
            model = build(cell)
            device = torch.device(cell.device)
            setting = Setting(device, cell.mode, cell.precision, cell.batch_size, cell.resolution, cell.seed)
            self.steps.append(Workload(model, model.layout, setting))

    def turns(self, count: int) -> list[list[float]]:
        """Seconds per step of each model, by turn: the median step, the first quarter left out."""
        found: list[list[float]] = [[] for _ in self.steps]
        for _ in range(count + 1):
            for own, step in zip(found, self.steps, strict=True):
                own.append(_turn(step))
        return [own[1:] for own in found]  # the first turn warms up


def _turn(step: Workload) -> float:
    seconds: list[float] = []
    end = time.perf_counter() + _TURN_S
    while len(seconds) < 8 or time.perf_counter() < end:
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
    return median(seconds[len(seconds) // 4 :])


def under_harness(cells: list[Cell], request: plan.Request, effort: Effort) -> float:
    """Speed of the mechanism relative to the baseline, by one process of each under the harness."""
    with TemporaryDirectory() as folder, Candidates(request) as candidates:
        group = Group(cells, cells[1].mechanism, effort, Path(folder) / "blocks.jsonl")
        for cell, found in measure(group, candidates.open, QuietProgress()):
            if isinstance(found, Exception):
                raise found
            if cell is cells[0]:
                ratio = found[0].details["ratio"]
    return float(ratio)


def in_plain_loop(cells: list[Cell], request: plan.Request, turns: int) -> float:
    """The same by a plain loop in a process of its own."""
    with Worker(PlainLoop, cells, request.flags, time_limit_s=request.limit_s) as worker:
        own, baseline = worker.call("turns", turns)
    return statistics.ratio_interval(own, baseline).ratio


@click.command()
@click.argument("mechanism")
@click.option("--baseline", default=baselines.BASELINE, show_default=True)
@click.option("--layout", default="swin_pico", show_default=True)
@click.option("--mode", default="infer", show_default=True)
@click.option("--precision", default="fp32", show_default=True)
@click.option("--batch-size", default=1, show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--pairs", default=6, show_default=True, help="Of processes.")
@click.option("--budget", default=6.0, show_default=True, help="Seconds of blocks of each under the harness.")
def main(
    mechanism: str,
    baseline: str,
    layout: str,
    mode: str,
    precision: str,
    batch_size: int,
    threads: int,
    pairs: int,
    budget: float,
) -> None:
    """Print MECHANISM's speed relative to the baseline, by the harness and by a plain loop."""
    flags = Flags(threads=threads)
    flags.apply()
    environment.pin_allocator()
    request = plan.Request(
        mechanisms=(mechanism,),
        metrics=("throughput",),
        layout=layout,
        device=torch.device("cpu"),
        precisions=(precision,),
        modes=(mode,),
        batch_size=batch_size,
        resolution=get_layout(layout).img_size,
        impl="auto",
        options={},
        seed=0,
        preset=plan.PRESETS["full"],
        out=Path(),
        baseline=baseline,
        flags=flags,
    )
    cells = list(plan.plan(request))
    effort = replace(Effort(0.5, 6, 100_000, budget), half_width=0.003)
    turns = max(3, round(budget / 2 / _TURN_S))
    harness, loop = [], []
    for number in range(pairs):
        harness.append(under_harness(cells, request, effort))
        loop.append(in_plain_loop(cells, request, turns))
        click.echo(f"{number + 1:>3}: harness {harness[-1]:.4f}, plain loop {loop[-1]:.4f}")
    one = [1.0] * pairs
    for title, ratios in (("harness", harness), ("plain loop", loop)):
        found = statistics.ratio_interval(one, ratios, range(pairs))
        click.echo(f"{title}: {found.ratio:.4f}, 95 % interval {found.low:.4f} to {found.high:.4f}")
    apart = statistics.ratio_interval(loop, harness, range(pairs))
    click.echo(f"harness over loop: {apart.ratio:.4f}, 95 % interval {apart.low:.4f} to {apart.high:.4f}")
    if not apart.low <= 1 <= apart.high:
        raise AttnbenchError("the harness changes the ratio that it measures")


if __name__ == "__main__":
    try:
        main(standalone_mode=True)
    except AttnbenchError as error:
        raise SystemExit(f"error: {error}") from error
