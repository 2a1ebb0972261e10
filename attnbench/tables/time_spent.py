"""Where the time of a step goes, from records of the metric ``explain``. Needs no torch."""

from collections.abc import Sequence
from dataclasses import dataclass

from attnbench.record import Measurement
from attnbench.tables.conditions import conditions
from attnbench.tables.grid import with_interval
from attnbench.tables.points import group_of
from attnbench.tables.render import title_of

CORE, ATTENTION = "attention core", "attention"
"""Names in a record: the core alone, and the attention with its projections and data movement."""


@dataclass(frozen=True)
class Part:
    """What one group of operators takes of a step.

    Args:
        share: of the step, with the half width of its 95 % interval where there is one.
        seconds: the share of the step's time.
        intensity: FLOP (two per multiply-add) by byte moved; 0 where nothing is multiplied.
        flops_per_s: reached.
        of_roof: least time on the machine's roofline over the time taken.
    """

    share: float
    half_width: float | None
    seconds: float
    intensity: float
    flops_per_s: float
    of_roof: float


@dataclass(frozen=True)
class Spent:
    """One mechanism's step.

    Args:
        parts: by group, those that add up to the step.
        core, attention: of the attention core, and of all that the attention does.
        times: how many times as long as the baseline's the step is, and the ends of the 95 % interval.
        verdict: ``faster``, ``slower``, ``cannot tell`` or ``baseline``.
        peak, bandwidth: the machine's ceilings, FLOP/s and bytes/s, measured a moment before.
        diagnosis: the sentence of ``attnbench explain``.
    """

    row: str
    title: str
    group: str
    step_s: float
    parts: dict[str, Part]
    core: Part
    attention: Part
    times: tuple[float, float, float] | None
    verdict: str
    baseline: str
    peak: float
    bandwidth: float
    diagnosis: str

    @property
    def beside(self) -> str:
        """Times as long as the baseline's, with interval and verdict."""
        return "1" if self.times is None else with_interval(*self.times, self.verdict)


def spent(records: Sequence[Measurement], layout: str | None) -> dict[str, list[Spent]]:
    """The newest record of each mechanism in a layout, the quickest step first, by conditions.

    Args:
        records: of any metric, oldest first.
        layout: to show.
    """
    by_condition: dict[str, dict[str, Measurement]] = {}
    for m in records:
        if m.name == "attention_time" and m.status == "ok" and m.cell.layout == layout:
            setting = f"{m.cell.mode} {m.cell.precision}, {m.cell.resolution} px, {conditions(m, 'auto')}"
            by_condition.setdefault(setting, {})[m.cell.row] = m
    return {
        setting: sorted((_spent(m) for m in found.values()), key=lambda one: one.step_s)
        for setting, found in by_condition.items()
    }


def _spent(m: Measurement) -> Spent:
    d = m.details
    parts = {name: _part(group, d["step_s"]) for name, group in d["groups"].items()}
    times = d.get("times_as_long")
    return Spent(
        row=m.cell.row,
        title=title_of(m.cell.row),
        group=group_of(m.cell.row),
        step_s=d["step_s"],
        parts={name: part for name, part in parts.items() if name != ATTENTION},
        core=parts[CORE],
        attention=parts[ATTENTION],
        times=None if times is None else (times[0], times[1], times[2]),
        verdict=d["verdict"],
        baseline=title_of(d["baseline"]) if "baseline" in d else "",
        peak=d["ceilings"]["flops_per_s"],
        bandwidth=d["ceilings"]["bytes_per_s"],
        diagnosis=d["diagnosis"],
    )


def _part(group: dict[str, float], step_s: float) -> Part:
    seconds, flops = group["seconds"], 2 * group["macs"]
    return Part(
        share=group["share"],
        half_width=group["half_width"],
        seconds=group["share"] * step_s,
        intensity=flops / group["moved"] if group["moved"] else 0.0,
        flops_per_s=flops / seconds if seconds else 0.0,
        of_roof=group["floor_s"] / seconds if seconds else 0.0,
    )
