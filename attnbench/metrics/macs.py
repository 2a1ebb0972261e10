"""Multiply-adds of one image: by the mechanism's formula, and by torch's counter; see docs/macs.md."""

from typing import TYPE_CHECKING

from attnbench.metrics import Bench, Value, register_metric

if TYPE_CHECKING:
    from attnbench.record import Cell, Measurement


def _value(name: str, heading: str, repeats: str = "", csv_only: bool = False) -> Value:
    return Value(name, "MACs", heading, name, scale=1e9, digits=4, repeats=repeats, csv_only=csv_only)


@register_metric(
    "macs",
    title="MACs",
    values=[
        _value("macs", "MACs (G)"),
        _value("macs_counted", "MACs counted (G)", repeats="macs"),
        *(
            _value(f"macs_{kind}", f"MACs {kind.replace('_', ' ')} (G)", csv_only=True)
            for kind in ("issued", "useful", "dense", "backward", "backward_counted")
        ),
    ],
    order=20,
    on_machine=False,
    needs="counts",
)
def measure(cell: "Cell", bench: Bench) -> "list[Measurement]":
    """Count a model's multiply-adds on the meta device."""
    from attnbench.harness.counting import costs
    from attnbench.harness.models.build import build

    return costs.measure(cell, lambda impl: build(cell, impl))
