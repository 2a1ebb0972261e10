"""Models that were trained here, beside what papers print: never without how they were trained."""

from collections.abc import Callable, Sequence

import pandas as pd

from attnbench import recipes
from attnbench.errors import AttnbenchError
from attnbench.metrics.training import how
from attnbench.record import Cell, Measurement
from attnbench.tables.render import Column, Table

IMAGENET = "imagenet"
RESOLUTION = 224
TOP1 = Column("trained_top1_percent", "Top-1 trained here (%)", 1, 2)
HOW = Column("trained_how", "How it was trained here")
GAP = Column("gap_trained_top1", "Gap top-1 (%)", 1, 2, signed=True)


def add_trained(table: Table, records: Sequence[Measurement], row_of: Callable[[Cell], str | None]) -> None:
    """Add the last epoch's accuracy of the newest training of each row, how it was trained, and the gap.

    The gap to the printed figure is shown where it is one: the recipe as it stands, all its epochs, on
    ImageNet-1K at 224 pixels. Otherwise a mark says what is unlike the paper's training.
    """
    newest: dict[str, Measurement] = {}
    for m in records:
        row = row_of(m.cell) if m.cell.metric == "training" and m.status == "ok" else None
        if row is not None and m.name == "top1":
            newest[row] = m
    if not newest:
        return
    gaps: dict[str, float] = {}
    for row, m in newest.items():
        table.measured[row, TOP1.name] = m
        why_not = unlike_the_paper(m)
        if why_not:
            table.mark(row, TOP1.name, f"Not the paper's training: {'; '.join(why_not)}.")
        figure = table.figures.get((row, "published_top1"))
        if figure is not None and figure.number is not None and not why_not and m.value is not None:
            gaps[row] = m.value - figure.number
    rows = list(table.raw.index)
    values = [newest[row].value if row in newest else None for row in rows]
    table.raw[TOP1.name] = pd.array(values, dtype="Float64")
    table.raw[HOW.name] = [_told(newest[row]) if row in newest else None for row in rows]
    table.columns += [TOP1, HOW]
    if gaps:
        table.raw[GAP.name] = pd.array([gaps.get(row) for row in rows], dtype="Float64")
        table.columns.insert(table.columns.index(HOW), GAP)


def unlike_the_paper(m: Measurement) -> list[str]:
    """In what a training differs from the one that its recipe describes; empty if in nothing."""
    details, found = m.details, []
    try:
        recipe = recipes.get(str(details.get("recipe")))
    except AttnbenchError:
        return [f"recipe {details.get('recipe')} is not one of the papers'"]
    if "/" not in recipe.source.split()[0]:  # of no repository
        found.append(f"recipe {recipe.name} is not a paper's")
    if details.get("epochs") != recipe.schedule.total_epochs:
        found.append(f"{details.get('epochs')} of {recipe.schedule.total_epochs} epochs")
    if m.cell.recipe != recipe.digest():
        changes = details.get("recipe_changes") or {"its settings": "others"}
        found.append(f"recipe changed: {', '.join(f'{k}={v}' for k, v in changes.items())}")
    if details.get("data") != IMAGENET:
        found.append(f"on {details.get('data')}, not ImageNet-1K")
    if m.cell.resolution != RESOLUTION:
        found.append(f"at {m.cell.resolution} px")
    return found


def _told(m: Measurement) -> str:
    scores = [
        f"{label} {value:.2f}"
        for label, value in (("mean weights", m.details["history"][-1].get("top1_ema")),)
        if value is not None
    ]
    best = max(m.details["history"], key=lambda row: row["top1"])
    scores.append(f"best epoch ({int(best['epoch']) + 1}) {best['top1']:.2f}")
    return f"{how(m)}; last epoch, raw weights; {', '.join(scores)}"
