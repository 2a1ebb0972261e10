"""An ablation grid measured by the runner: its points as requests, and the cells that each point needs."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from attnbench import baselines
from attnbench.errors import AttnbenchError
from attnbench.grids import Grid, Point
from attnbench.harness.run import plan, runner
from attnbench.progress import Progress
from attnbench.record import Cell, digest
from attnbench.registry import get


@dataclass(frozen=True)
class Place:
    """Where and how a grid is measured; see the fields of the same names of a run's request."""

    out: Path
    device: torch.device
    in_process: bool = False
    time_limit_s: float = 0.0
    force: bool = False


@dataclass
class Planned:
    """A grid's cells by point, and the requests that make them."""

    cells: list[list[Cell]] = field(default_factory=list)
    requests: list[plan.Request] = field(default_factory=list)


def planned(grid: Grid, place: Place) -> Planned:
    """The cells that each point of a grid needs, and one request for all that differ in the mechanism only.

    Raises:
        AttnbenchError: a point has an unknown name or implementation.
    """
    found = Planned()
    together: dict[str, list[Point]] = {}
    for point in grid.points():
        _check_implementation(point)
        found.cells.append([c for c in plan.plan(_request(grid, place, [point])) if _is_of(point, c)])
        rest = {name: value for name, value in point.fields.items() if name != "mechanism"}
        together.setdefault(digest([rest, dict(point.options)]), []).append(point)
    found.requests = [_request(grid, place, points) for points in together.values()]
    return found


def measure(requests: Iterable[plan.Request], progress: Progress) -> runner.Summary:
    """Measure what has no record yet.

    Raises:
        AttnbenchError: the output folder cannot be written.
    """
    whole = runner.Summary()
    for request in requests:
        part = runner.run(request, progress)
        whole.measured += part.measured
        whole.known += part.known
        whole.failed += part.failed
        whole.path = part.path
    return whole


def _is_of(point: Point, cell: Cell) -> bool:
    """Whether a cell is the point's own; a group has the baseline's besides."""
    return bool(cell.mechanism == point.fields["mechanism"])


def _request(grid: Grid, place: Place, points: list[Point]) -> plan.Request:
    fields = points[0].fields
    batch = fields["batch_size"] or (64 if place.device.type == "cuda" else 1)
    return plan.Request(
        mechanisms=tuple(dict.fromkeys(point.fields["mechanism"] for point in points)),
        metrics=grid.metrics,
        layout=fields["layout"],
        device=place.device,
        precisions=(fields["precision"],),
        modes=(fields["mode"],),
        batch_size=batch,
        resolution=fields["resolution"],
        impl=fields["implementation"],
        options=dict(points[0].options),
        seed=fields["seed"],
        preset=plan.PRESETS[fields["recipe"]],
        out=place.out,
        force=place.force,
        in_process=place.in_process,
        time_limit_s=place.time_limit_s,
    )


def _check_implementation(point: Point) -> None:
    name, impl = point.fields["mechanism"], point.fields["implementation"]
    if baselines.is_baseline(name):
        if impl != "auto" or point.options:
            raise AttnbenchError(f"{name} is a baseline: it has no implementations and no options")
    elif impl not in ("auto", *get(name).implementations):
        known = ", ".join(("auto", *get(name).implementations))
        raise AttnbenchError(f"{name} has no implementation {impl!r}; it has {known}")
