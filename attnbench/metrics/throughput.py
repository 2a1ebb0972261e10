"""Images per second, of candidates that take turns with the baseline; see docs/measuring.md."""

from typing import TYPE_CHECKING

from attnbench.errors import AttnbenchError
from attnbench.metrics import Bench, Value, register_metric

if TYPE_CHECKING:
    from attnbench.record import Cell, Measurement


@register_metric(
    "throughput",
    title="throughput",
    values=[
        Value(
            "throughput",
            unit="images/s",
            heading="Images/s {setting}",
            column="images_per_s_{suffix}",
            digits=1,
            better="higher",
            words=("slower", "faster"),
            paired=True,
        )
    ],
    order=40,
    per_setting=True,
    per_regime=True,
    with_batch=True,
    with_preset=True,
    grouped=True,
)
def measure(cell: "Cell", bench: Bench) -> "list[Measurement]":
    """Not to be called: a group of cells is measured at once, by :mod:`attnbench.harness.timing.group`.

    Raises:
        AttnbenchError: always.
    """
    raise AttnbenchError(f"{cell}: throughput is measured by the group; use 'attnbench run'")
