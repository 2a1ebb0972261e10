"""Where the time of a step goes, and how far from the machine's roofline it stays; see docs/explain.md."""

import math
from typing import TYPE_CHECKING, Any

from attnbench.metrics import Bench, Value, register_metric

if TYPE_CHECKING:
    from attnbench.harness.explain.gap import Comparison, Explained
    from attnbench.harness.explain.groups import Share
    from attnbench.record import Cell, Measurement

_SECONDS = 5.0
"""For the rounds in which the mechanism and the baseline take turns."""


@register_metric(
    "explain",
    title="where the time goes",
    values=[
        Value(
            "attention_time",
            unit="s",
            heading="Attention {setting} (ms)",
            column="attention_time_{suffix}_s",
            scale=1e-3,
            digits=1,
            tolerance=0.05,
            interval=True,
        )
    ],
    order=60,
    default=False,  # ten seconds a mechanism for what the report shows, and no table
    per_setting=True,
    with_batch=True,
    needs="alone",
    apart=True,
)
def measure(cell: "Cell", bench: Bench) -> "list[Measurement]":
    """Explain a step of the cell's model beside the request's baseline; the value is of its attention.

    Raises:
        AttnbenchError: a model cannot be built, or what it runs cannot be told apart.
    """
    from attnbench.harness.explain import gap
    from attnbench.harness.explain.groups import split
    from attnbench.record import Measurement

    other = _baseline(cell, bench.request.baseline)
    found = gap.compare(cell, other, bench.setting(cell), gap.Effort(budget_s=_SECONDS))
    own = found.subject
    shares = split(own)
    attention = shares[-1]
    details = {
        "interval_95": _interval(attention, own.step_s),
        "diagnosis": found.sentence(),
        "verdict": found.verdict(),
        "ceilings": vars(found.ceilings),
        "rounds": len(own.rounds),
        **_model(own, shares),
        **_beside(found),
    }
    value = attention.share * own.step_s
    return [
        Measurement.of(cell, "attention_time", value, "s", implementation=own.implementation, details=details)
    ]


def _baseline(cell: "Cell", name: str) -> "Cell | None":
    """The baseline under the cell's conditions; none beside itself."""
    if not name or name == cell.mechanism:
        return None
    return cell.model_copy(update={"mechanism": name, "impl": "auto", "options": {}})


def _model(model: "Explained", shares: "list[Share]") -> dict[str, Any]:
    return {
        "step_s": model.step_s,
        "outside_s": model.outside_s,
        "groups": {share.group: _group(share) for share in shares},
    }


def _group(share: "Share") -> dict[str, Any]:
    row = share.row
    wide = share.half_width if math.isfinite(share.half_width) else None
    return {
        "share": share.share,
        "half_width": wide,
        "seconds": row.seconds if row else 0.0,
        "macs": row.macs if row else 0,
        "moved": row.moved if row else 0,
        "compulsory": row.compulsory if row else 0,
        "floor_s": row.floor_s if row else 0.0,
    }


def _beside(found: "Comparison") -> dict[str, Any]:
    """The step as a multiple of the baseline's, with its interval; nothing where there is no baseline."""
    times = found.times()
    if times is None or found.baseline is None:
        return {}
    return {
        "baseline": found.baseline.name,
        "baseline_step_s": found.baseline.step_s,
        "times_as_long": [times.ratio, times.low, times.high],
        "gap_s": found.gap(),
    }


def _interval(share: "Share", step_s: float) -> list[float] | None:
    if not math.isfinite(share.half_width):
        return None
    return [(share.share - share.half_width) * step_s, (share.share + share.half_width) * step_s]
