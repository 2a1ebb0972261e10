"""What accuracy costs: accuracy beside MACs, speed and memory, with the front of those nobody beats."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from attnbench.figures.files import PAGE, new_figure, styled
from attnbench.figures.labels import label_points
from attnbench.figures.style import COLOURS, FAINT, MARKERS, key_of_groups
from attnbench.tables.points import Point, front, probes, published, ratios, values
from attnbench.tables.render import Table

MOST_BESIDE = 12
"""Rows up to which the panels stand side by side; more of them need the width of the page for their names."""


class Cost(NamedTuple):
    """What an accuracy is set against.

    Args:
        title: of the axis, with the unit.
        points: by row, in that unit.
        less_is_better: whether it is a cost, not a speed.
    """

    title: str
    points: Mapping[str, Point]
    less_is_better: bool


class Quality(NamedTuple):
    """An accuracy: a name for files, the title of its axis, and the points by row."""

    name: str
    title: str
    points: Mapping[str, Point]


def costs(table: Table) -> list[Cost]:
    """MACs, speed and memory, as far as they were measured."""
    found = [
        Cost("MACs (G)", _scaled(values(table, "macs"), 1e9), True),
        Cost("speed over the baseline's,\ninference FP32", _scaled(ratios(table, "infer", "fp32"), 1), False),
        Cost(
            "memory, training FP32 (MiB)", _scaled(values(table, "peak_memory", "train", "fp32"), 2**20), True
        ),
    ]
    return [cost for cost in found if cost.points]


def qualities(table: Table) -> list[Quality]:
    """Accuracies that some rows have: measured here, then as printed."""
    found = [
        Quality("imagenet", "ImageNet-1K top-1, published (%)", _scaled(published(table, "top1"), 1)),
        Quality("digits", "top-1 on digits, measured (%)", _scaled(values(table, "top1"), 1)),
    ]
    found += [
        Quality(f"probe_{number}", f"{title} (%)", {point.row: point for point in points})
        for number, (title, points) in enumerate(probes(table), start=1)
    ]
    return [quality for quality in found if len(quality.points) > 2]


@styled
def draw(table: Table, quality: Quality) -> Any | None:
    """A panel for each cost; ``None`` where there is nothing to set against each other."""
    shown = [cost for cost in costs(table) if len(set(cost.points) & set(quality.points)) > 1]
    if not shown:
        return None
    crowded = len(quality.points) > MOST_BESIDE
    size = (PAGE, 2.7 * len(shown)) if crowded else (PAGE, 3.3)
    cells = {"nrows": len(shown)} if crowded else {"ncols": len(shown)}
    figure, axes = new_figure(*size, **cells, sharey=True, squeeze=False)
    panels = list(zip(axes.flat, shown, strict=True))
    groups = [_panel(panel, cost, quality) for panel, cost in panels]
    if crowded:
        figure.supylabel(quality.title, fontsize=8)
    else:
        axes[0, 0].set_ylabel(quality.title)
    title = f"Accuracy and its price: attention mechanisms in {table.layout}, {table.resolution} px"
    figure.suptitle(f"{title}; the line joins those that none beats in both", fontsize=9)
    key_of_groups(figure, set().union(*groups))
    for panel, cost in panels:
        _label(panel, cost, quality)
    return figure


def _panel(axes: Any, cost: Cost, quality: Quality) -> set[str]:
    """Points, intervals and the front; returns the groups drawn."""
    rows = [row for row in quality.points if row in cost.points]
    pairs = [(cost.points[row].value, quality.points[row].value) for row in rows]
    kept = [pairs[i] for i in front(pairs, less_is_better=cost.less_is_better)]
    axes.plot(*zip(*kept, strict=True), color=FAINT, linewidth=0.8, linestyle=(0, (4, 2)), zorder=1)
    for row, (x, y) in zip(rows, pairs, strict=True):
        own, other = cost.points[row], quality.points[row]
        colour = COLOURS[own.group]
        if own.low is not None and own.high is not None:
            axes.plot([own.low, own.high], [y, y], color=colour, linewidth=0.35, zorder=1)
        if other.low is not None and other.high is not None:
            axes.plot([x, x], [other.low, other.high], color=colour, linewidth=0.35, zorder=1)
        axes.plot(x, y, MARKERS[own.group], color=colour, markersize=3.6)
    axes.set_xlabel(cost.title)
    axes.margins(0.12, 0.12)
    return {cost.points[row].group for row in rows}


def _label(axes: Any, cost: Cost, quality: Quality) -> None:
    rows = [row for row in quality.points if row in cost.points]
    pairs = [(cost.points[row].value, quality.points[row].value) for row in rows]
    first = front(pairs, less_is_better=cost.less_is_better)
    order = [*first, *(i for i in range(len(rows)) if i not in first)]
    label_points(axes, [(*pairs[i], cost.points[rows[i]].title) for i in order])


def _scaled(points: list[Point], by: float) -> dict[str, Point]:
    return {point.row: point.over(by) for point in points}
