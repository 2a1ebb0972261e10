"""What mechanisms reach on the generated scenes: mIoU and AP by head, with intervals over seeds.

``identity`` is the floor: what lies above it is what attention carried beyond the reach of the head.
"""

import statistics
from collections.abc import Sequence

import pandas as pd

from attnbench import metrics
from attnbench.errors import AttnbenchError
from attnbench.heads import DETECTORS, HEADS, pretrained
from attnbench.record import Measurement
from attnbench.seeds import mean
from attnbench.tables.conditions import conditions
from attnbench.tables.render import DASH, Column, Table

DATASET = "scenes"
_SHOWN = {"semantic": ("miou", "miou_context"), "detection": ("ap_box", "ap_box_context", "ap_mask")}


def scenes_table(records: Sequence[Measurement]) -> Table:
    """One row a mechanism, each head's newest recipe and images; the mean over seeds, its 95 % interval.

    Raises:
        AttnbenchError: there is no record of the scenes.
    """
    found = [m for m in records if m.cell.dataset == DATASET and m.cell.metric.endswith("_training")]
    if not found:
        raise AttnbenchError(
            "no records of the scenes; 'attnbench train --task semantic --data scenes --layout swin_pico "
            "--recipe scenes_sem_fpn --mechanism M --seed S' makes them"
        )
    rows = sorted({m.cell.row for m in found}, key=lambda row: (row == "identity", row))
    table = Table(
        [], pd.DataFrame(index=pd.Index(rows, name="mechanism")), title="Generated scenes, swin_pico"
    )
    seeds: set[int] = set()
    for head in HEADS:
        for name in _SHOWN["detection" if head in DETECTORS else "semantic"]:
            of_value = [m for m in found if m.cell.metric == f"{head}_training" and m.name == name]
            if of_value:
                newest = [m for m in of_value if _setting(m) == _setting(of_value[-1])]
                seeds |= {m.cell.seed for m in newest}
                _add(table, head, name, newest)
    table.notes += [
        "Mean over seeds, and the 95 % interval of Student's t that so few allow; the last test of each run. "
        "Over identity: the mean difference in the same seed, with its interval.",
        f"Seeds: {', '.join(map(str, sorted(seeds)))}. 'of context': classes that look alike in pairs.",
    ]
    return table


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the mean of independent values; ``None`` for fewer than two."""
    if len(values) < 2:
        return None
    found = mean(values)
    return found.value - found.half_width, found.value + found.half_width


def _setting(m: Measurement) -> tuple[str, bool, object]:
    """What the runs of a column have in common: recipe, beginning, scenes of one size and number."""
    return m.cell.recipe, pretrained(m.details), m.details.get("data_options", {})


def _values(by_seed: dict[int, Measurement]) -> dict[int, float]:
    return {seed: float(m.value) for seed, m in by_seed.items() if m.value is not None}


def _add(table: Table, head: str, name: str, records: Sequence[Measurement]) -> None:
    value = metrics.get(f"{head}_training").value(name)
    column = Column.of_value(f"{head}_training", value, mode="train")
    by_row: dict[str, dict[int, Measurement]] = {}
    for m in records:  # of a seed the newest
        if m.status == "ok" and m.value is not None:
            by_row.setdefault(m.cell.row, {})[m.cell.seed] = m
    means: list[float | None] = []
    intervals, above = [], []
    floor = _values(by_row.get("identity", {}))
    for row in table.raw.index:
        values = _values(by_row.get(row, {}))
        means.append(statistics.fmean(values.values()) if values else None)
        bounds = interval([*values.values()])
        intervals.append(f"{bounds[0]:.1f} to {bounds[1]:.1f} ({len(values)})" if bounds else DASH)
        over = [values[seed] - floor[seed] for seed in values if seed in floor and row != "identity"]
        ends = interval(over)
        above.append(f"{statistics.fmean(over):+.1f} [{ends[0]:+.1f}, {ends[1]:+.1f}]" if ends else DASH)
        if values:
            table.measured[row, column.name] = next(iter(by_row[row].values()))
    table.raw[column.name] = pd.array(means, dtype="Float64")
    table.columns.append(column)
    heading = column.heading.removesuffix(" (%)")
    for suffix, told, texts in (
        ("interval", "95 % (seeds)", intervals),
        ("over_identity", "over identity", above),
    ):
        own = f"{column.name}_{suffix}"
        table.raw[own] = pd.array(texts, dtype="string")
        table.columns.append(Column(own, f"{heading}, {told}", of=(column.name,)))
    text = conditions(records[-1]).rpartition(", seed")[0]
    if text and f"Conditions: {text}." not in table.notes:
        table.notes.append(f"Conditions: {text}.")
