"""The probe profile as columns beside the cost of mechanisms: what attention buys, on generated tasks."""

import math
from collections.abc import Callable, Sequence

import pandas as pd

from attnbench import seeds
from attnbench.record import Cell, Measurement
from attnbench.tables.probe_profile import Profile, profiles
from attnbench.tables.render import Column, Table

MOST = 3
"""Probes at most; 'attnbench probe' prints all."""
LEAST_ROWS = 3
"""Of fewer rows a profile compares nothing."""
TOTAL, LATER = 20, 30
"""Turns: one probe's split by reach comes first, then what papers print, all totals, the other splits."""
LEGEND = "%: right on a generated task (attnbench probe); 1 hop: where one attention reads; far: beyond it"


def add_probes(table: Table, records: Sequence[Measurement], row_of: Callable[[Cell], str | None]) -> None:
    """Add a column of accuracies for each probe, the mean over seeds, and a note on what they can tell.

    Where there is room for few, the first probe's split by reach comes first: in one hop, and beyond.

    Args:
        table: with its frame; rows that it has get a value, no row is added.
        records: of any metric.
        row_of: the row of a cell.
    """
    known = set(table.raw.index)
    ours = [m for m in records if m.cell.metric == "probe" and row_of(m.cell) in known]
    found = [profile for profile in profiles(ours) if len(profile.accuracies()) >= LEAST_ROWS]
    found = sorted(sorted(found, key=_fewest_seeds)[:MOST], key=_is_whole)
    for profile in found:
        _add(table, profile, ours, row_of)
        _add_hops(table, profile, ours, row_of, turn=0 if profile is found[0] else LATER)
    if found:
        table.notes.append(
            "Probe profile: percent right on generated tasks ('attnbench probe'; docs/probes.md says why "
            "each mechanism stands where it does). No ranking of pictures follows from it."
        )


def _fewest_seeds(profile: Profile) -> tuple[int, str]:
    """For sorting: what most models were trained of comes first."""
    return -sum(row.seeds for row in profile.rows.values()), profile.title


def _is_whole(profile: Profile) -> bool:
    return not _has_hops(profile)


def _has_hops(profile: Profile) -> bool:
    return any(row.mean("one_hop") for row in profile.rows.values())


def _add(
    table: Table, profile: Profile, records: Sequence[Measurement], row_of: Callable[[Cell], str | None]
) -> None:
    name = f"probe_{profile.probe}_percent"
    column = Column(name, f"Probe: {profile.title} (%)", turn=TOTAL)
    rows = {row_of(m.cell): profile.rows.get(m.cell.row) for m in records if m.cell.dataset == profile.probe}
    means = {name: row.mean("accuracy") if row else None for name, row in rows.items()}
    values = {row: mean for row, mean in means.items() if mean is not None}
    index = list(table.raw.index)
    table.raw[name] = pd.array([values[r].value if r in values else None for r in index], dtype="Float64")
    widths = [values[r].half_width if r in values else math.inf for r in index]
    half = Column(f"{name}_half_width", f"{column.heading} ±", 1, 1, csv_only=True)
    table.raw[half.name] = pd.array([w if w < math.inf else None for w in widths], dtype="Float64")
    table.raw[f"probe_{profile.probe}_seeds"] = pd.array(
        [values[r].seeds if r in values else None for r in index], dtype="Int64"
    )
    table.columns += [column, half]
    table.legends[name] = LEGEND
    for r in index:
        for m in records:
            if row_of(m.cell) == r and m.cell.dataset == profile.probe and m.name == "accuracy":
                table.measured[r, name] = m
    table.notes.append(_told(profile))


def _add_hops(
    table: Table,
    profile: Profile,
    records: Sequence[Measurement],
    row_of: Callable[[Cell], str | None],
    *,
    turn: int,
) -> None:
    """Right of what lies in one hop, and beyond it, where the probe has answers in one place."""
    if not _has_hops(profile):
        return
    rows = {row_of(m.cell): profile.rows.get(m.cell.row) for m in records if m.cell.dataset == profile.probe}
    for part, words in (("one_hop", "1 hop"), ("far", "far")):
        name = f"probe_{profile.probe}_{part}_percent"
        column = Column(name, f"Probe: {profile.title} ({words})", turn=turn)
        means = {r: (row.far() if part == "far" else row.mean(part)) for r, row in rows.items() if row}
        values = {r: mean.value for r, mean in means.items() if mean is not None}
        table.raw[column.name] = pd.array([values.get(r) for r in table.raw.index], dtype="Float64")
        table.columns.append(column)
        table.legends[column.name] = LEGEND
        for m in records:
            if m.cell.dataset == profile.probe and m.name == "accuracy" and (row := row_of(m.cell)) in values:
                table.measured[str(row), column.name] = m


def _told(profile: Profile) -> str:
    """What guessing is worth, and which differences count."""
    accuracies = profile.accuracies()
    counts = sorted({len(by_seed) for by_seed in accuracies.values()})
    many = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    text = f"{profile.title}: guessing {profile.chance:.1f} %, without attention {profile.without}; "
    text += f"{many} seed{'s' if counts[-1] > 1 else ''}"
    least = seeds.detectable({r: found for r, found in accuracies.items() if len(found) >= seeds.LEAST})
    if least < math.inf:
        return f"{text}, the typical pair of rows is told apart from {least:.1f} points on."
    return f"{text}, so that no difference between rows is claimed."
