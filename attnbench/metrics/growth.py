"""How the cost grows with resolution, counted and fitted under each rule of scaling; see docs/tables.md."""

import functools
from typing import TYPE_CHECKING, Any

from attnbench.metrics import Bench, Value, register_metric

if TYPE_CHECKING:
    from attnbench.harness.counting.complexity import Counter, Growth
    from attnbench.record import Cell, Measurement

STAGE = 0
"""The stage whose blocks are counted: its maps are the largest."""


@register_metric(
    "growth",
    title="growth with resolution",
    values=[
        Value(
            "growth_exponent",
            unit="power of N",
            heading="Growth (power of N)",
            column="growth_exponent",
            digits=3,
            tolerance=0.01,
            csv_only=True,
        )
    ],
    order=25,
    default=False,  # a minute of counting, whose result never changes
    on_machine=False,
    needs="counts",
)
def measure(cell: "Cell", bench: Bench) -> "list[Measurement]":
    """Count two blocks of the first stage from 56 to 2048 pixels; the value is of the mechanism's first rule.

    Every rule, with its counts, is in the details. A baseline has no blocks of ours, and no record.
    """
    from attnbench.baselines import is_baseline
    from attnbench.harness.counting import complexity
    from attnbench.record import Measurement

    if is_baseline(cell.mechanism):
        return []
    found = complexity.measure(_counter(cell.layout), cell.mechanism)
    fit = found[0].fit
    details = {
        "stage": STAGE + 1,
        "fitted_from_px": complexity.TAIL,
        "rules": [_rule(item) for item in found],
    }
    value = None if fit is None else fit.exponent
    return [Measurement.of(cell, "growth_exponent", value, "power of N", details=details)]


@functools.cache
def _counter(layout: str) -> "Counter":
    """One for all mechanisms of a run, since each is compared with full attention."""
    from attnbench.harness.counting import complexity
    from attnbench.layouts import get_layout

    return complexity.Counter(get_layout(layout), STAGE)


def _rule(item: "Growth") -> dict[str, Any]:
    fit = item.fit
    return {
        "rule": item.rule.name,
        "says": item.rule.says,
        "declared": item.declared,
        "exponent": fit and fit.exponent,
        "interval_95": fit and [fit.low, fit.high],
        "macs": {str(px): macs for px, macs in item.counts.items()},
        "cheaper_than_full_from_px": item.cheaper_from,
        "reason": item.reason,
    }
