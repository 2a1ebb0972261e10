"""Top-1 accuracy after training a small layout on a data set: a smoke test of training, which ranks nothing.

A model without attention does as well as the rest; :mod:`attnbench.metrics.probe` tells mechanisms apart.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from attnbench.metrics import Bench, Value, register_metric

if TYPE_CHECKING:
    from attnbench.harness.run.plan import Request
    from attnbench.record import Cell, Measurement

LAYOUT = "swin_pico"


def _cells(request: "Request") -> Iterator[dict[str, Any]]:
    from attnbench import datasets
    from attnbench.layouts import get_layout
    from attnbench.record import digest

    recipe, data = request.preset.recipe, datasets.of_layout(LAYOUT)
    yield {
        "layout": LAYOUT,
        "resolution": get_layout(LAYOUT).img_size,
        "preset": request.preset.name,
        "batch_size": recipe.batch_size,
        "recipe": digest(recipe.describe()),
        "mode": "train",
        "dataset": data.name,
        "dataset_digest": data.digest(),
    }


def _condition(m: "Measurement") -> str:
    cell = m.cell
    recipe = f", recipe {cell.recipe}" if cell.recipe else ""
    data = f"{cell.dataset} ({cell.dataset_digest})" if cell.dataset_digest else cell.dataset
    return f"accuracy by training {cell.layout} on {data}, preset {cell.preset}{recipe}, seed {cell.seed}"


@register_metric(
    "accuracy",
    title="top-1 accuracy",
    values=[
        Value(
            "top1",
            unit="%",
            heading="Top-1 {layout} (%)",
            column="top1_{layout}_percent",
            digits=1,
            better="higher",
            interval=True,
            words=("lower", "higher"),
        )
    ],
    order=50,
    default=False,
    needs="alone",
    own_layout=True,
    apart=True,
    cells=_cells,
    condition=_condition,
)
def measure(cell: "Cell", bench: Bench) -> "list[Measurement]":
    """Train a new model, and test it on the images held out."""
    from attnbench.harness.models.backbone import executed_impl
    from attnbench.harness.models.build import build
    from attnbench.harness.training import accuracy
    from attnbench.record import Measurement

    model, request = build(cell), bench.request
    percent, details = accuracy.measure(
        model, cell.resolution, request.preset.recipe, request.device, cell.seed, cell.dataset
    )
    ran = executed_impl(model)
    return [Measurement.of(cell, "top1", percent, "%", implementation=ran, details=details)]
