"""Images per second, of candidates that take turns with the baseline; see docs/measuring.md."""

from typing import TYPE_CHECKING

from attnbench.metrics import Value, register_metric

if TYPE_CHECKING:
    from collections.abc import Callable

    from attnbench.harness.timing.group import Group, Outcome
    from attnbench.harness.timing.session import Candidate
    from attnbench.progress import Progress
    from attnbench.record import Cell


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
def measure(
    group: "Group", open_candidate: "Callable[[Cell], Candidate]", progress: "Progress"
) -> "list[Outcome]":
    """Measure a group of candidates in turn: of each cell the measurements, or why there are none."""
    from attnbench.harness.timing import group as groups

    return groups.measure(group, open_candidate, progress)
