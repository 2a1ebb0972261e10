"""Dense models at the papers' sizes: what a backbone with a head costs, holds and takes.

A mechanism that is cheap on 224 × 224 need not be on 800 × 1280. For each head of :mod:`attnbench.heads`
there are two metrics, which ``attnbench run --metrics`` takes by name: ``<head>_costs`` (parameters and
multiply-adds, counted without memory) and ``<head>_speed`` (peak memory and images per second). They run in
the layout that the run asks for, on images of the paper's size; ``--resolution N`` gives another short side.
"""

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from attnbench import dense_recipes
from attnbench.heads import HEADS, RECIPES, SHORT_SIDES
from attnbench.metrics import Bench, Value, register_metric

if TYPE_CHECKING:
    from attnbench.harness.run.plan import Request
    from attnbench.record import Cell, Measurement


def _cells(head: str, settings: bool, request: "Request") -> Iterator[dict[str, Any]]:
    from attnbench.layouts import get_layout

    usual = request.resolution == get_layout(request.layout).img_size
    fields = {
        "resolution": SHORT_SIDES[head] if usual else request.resolution,
        "recipe": dense_recipes.get(RECIPES[head]).digest(),
    }
    if not settings:
        yield fields
        return
    for mode in request.modes:
        for precision in request.precisions:
            yield fields | {"mode": mode, "precision": precision, "preset": request.preset.name}


def _size(m: "Measurement") -> str:
    size = m.details.get("size")
    return f"dense models on {size[0]} × {size[1]} px, batch 1" if size else ""


def _costs(head: str, cell: "Cell", bench: Bench) -> "list[Measurement]":
    from attnbench.harness.dense import measuring

    return measuring.costs(head, cell)


def _speed(head: str, cell: "Cell", bench: Bench) -> "list[Measurement]":
    from attnbench.harness.dense import measuring

    return measuring.speed(head, cell, bench)


def _register(head: str, title: str, place: int) -> None:
    register_metric(
        f"{head}_costs",
        title=f"parameters and MACs with {title}",
        values=[
            Value(f"{head}_params", "parameters", f"{title} params (M)", f"{head}_parameters", 1e6, 2),
            Value(f"{head}_macs", "MACs", f"{title} MACs (G)", f"{head}_macs", 1e9, 1),
            Value(
                f"{head}_macs_counted",
                "MACs",
                f"{title} MACs counted (G)",
                f"{head}_macs_counted",
                1e9,
                1,
                repeats=f"{head}_macs",
            ),
        ],
        order=60 + place,
        default=False,
        on_machine=False,
        needs="counts",
        cells=functools.partial(_cells, head, False),
        condition=_size,
    )(functools.partial(_costs, head))
    register_metric(
        f"{head}_speed",
        title=f"memory and throughput with {title}",
        values=[
            Value(
                f"{head}_peak_memory",
                "bytes",
                f"{title} memory {{setting}} (MiB)",
                f"{head}_peak_memory_{{suffix}}_bytes",
                2**20,
                tolerance=0.01,
            ),
            Value(
                f"{head}_images_per_s",
                "images/s",
                f"{title} images/s {{setting}}",
                f"{head}_images_per_s_{{suffix}}",
                digits=3,
                better="higher",
                tolerance=0.05,
                words=("slower", "faster"),
            ),
        ],
        order=70 + place,
        default=False,
        per_setting=True,
        with_preset=True,
        needs="alone",
        cells=functools.partial(_cells, head, True),
        condition=_size,
    )(functools.partial(_speed, head))


for _place, (_head, _title) in enumerate(HEADS.items()):
    _register(_head, _title, _place)
