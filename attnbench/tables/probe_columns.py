"""The probe profile as columns beside the cost of mechanisms: what attention buys, on generated tasks."""

import math
from collections.abc import Callable, Mapping, Sequence

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
    found = sorted(found, key=lambda profile: (-_trainings(profile), profile.title))[:MOST]
    found.sort(key=lambda profile: not profile.has_hops)
    for profile in found:
        behind = {
            str(row_of(m.cell)): m
            for m in ours
            if m.cell.dataset == profile.probe and m.name == "accuracy" and m.cell.row in profile.rows
        }
        _add(table, profile, behind)
        if profile.has_hops:
            _add_hops(table, profile, behind, turn=0 if profile is found[0] else LATER)
    if found:
        table.notes.append(
            "Probe profile: percent right on generated tasks ('attnbench probe'; docs/probes.md says why "
            "each mechanism stands where it does). No ranking of pictures follows from it."
        )


def _trainings(profile: Profile) -> int:
    return sum(row.seeds for row in profile.rows.values())


def _add(table: Table, profile: Profile, behind: Mapping[str, Measurement]) -> None:
    """The accuracy, its interval and the number of seeds; ``behind`` is a record of each row of the table."""
    name = f"probe_{profile.probe}_percent"
    means = {r: mean for r, m in behind.items() if (mean := profile.rows[m.cell.row].mean("accuracy"))}
    column = Column(name, f"Probe: {profile.title} (%)", turn=TOTAL)
    _put(table, column, {r: mean.value for r, mean in means.items()}, behind)
    half = Column(f"{name}_half_width", f"{column.heading} ±", 1, 1, csv_only=True)
    known = {r: mean.half_width for r, mean in means.items() if mean.half_width < math.inf}
    table.raw[half.name] = pd.array([known.get(r) for r in table.raw.index], dtype="Float64")
    counts = [means[r].seeds if r in means else None for r in table.raw.index]
    table.raw[f"probe_{profile.probe}_seeds"] = pd.array(counts, dtype="Int64")
    table.columns.append(half)
    table.notes.append(_told(profile))


def _add_hops(table: Table, profile: Profile, behind: Mapping[str, Measurement], *, turn: int) -> None:
    """Right of what lies in one hop, and beyond it."""
    rows = {r: profile.rows[m.cell.row] for r, m in behind.items()}
    near = {r: row.mean("one_hop") for r, row in rows.items()}
    far = {r: row.far() for r, row in rows.items()}
    for part, words, means in (("one_hop", "1 hop", near), ("far", "far", far)):
        name = f"probe_{profile.probe}_{part}_percent"
        column = Column(name, f"Probe: {profile.title} ({words})", turn=turn)
        _put(table, column, {r: mean.value for r, mean in means.items() if mean}, behind)


def _put(
    table: Table, column: Column, values: Mapping[str, float], behind: Mapping[str, Measurement]
) -> None:
    table.raw[column.name] = pd.array([values.get(r) for r in table.raw.index], dtype="Float64")
    table.columns.append(column)
    table.legends[column.name] = LEGEND
    table.measured |= {(r, column.name): behind[r] for r in values}


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
