"""Learned parameters of the whole model, counted."""

from typing import TYPE_CHECKING

from attnbench.metrics import Bench, Value, register_metric

if TYPE_CHECKING:
    from attnbench.record import Cell, Measurement


@register_metric(
    "params",
    title="parameters",
    values=[
        Value(
            "parameters",
            unit="parameters",
            heading="Params (M)",
            column="parameters",
            scale=1e6,
            digits=2,
            better="equal",
            words=("changed", "changed"),
        )
    ],
    order=10,
    on_machine=False,
    needs="counts",
)
def measure(cell: "Cell", bench: Bench) -> "list[Measurement]":
    """Count the parameters of a model on the meta device."""
    import torch

    from attnbench.harness.counting import parameters
    from attnbench.harness.models.build import build
    from attnbench.record import Measurement

    with torch.device("meta"):
        model = build(cell, "eager")
    return [Measurement.of(cell, "parameters", parameters.measure(model), "parameters")]
