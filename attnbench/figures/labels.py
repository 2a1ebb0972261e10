"""Direct labels that overlap neither each other nor the points.

Each label is tried at places around its point, near ones first, and takes the first that is free; one that
had to go far is tied to its point by a thin line. The search has no chance in it, so a figure is the same
every time.
"""

from collections.abc import Sequence
from itertools import product
from typing import Any

from attnbench.figures.style import FAINT

_DIRECTIONS = ((1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1), (0, 1), (0, -1))
_DISTANCES = (5, 9, 14, 20, 28, 38, 50, 64, 80)
_TIED_FROM = 14
_SIZE = 6.0
_GROUND = {"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.4}
"""Behind a label, so that a line below it does not disturb."""


def label_points(
    axes: Any, labels: Sequence[tuple[float, float, str]], *, avoid: Sequence[tuple[float, float]] = ()
) -> int:
    """Write a label beside each point.

    Args:
        axes: with all points drawn and its limits set; its layout is fixed from here on.
        labels: x, y and text, in data coordinates, the most important first.
        avoid: further points that no label may cover.

    Returns:
        How many labels found no free place and overlap something.
    """
    figure = axes.figure
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    renderer, dots = figure._get_renderer(), figure.dpi / 72
    frame = axes.get_window_extent(renderer)
    taken = [_around(axes, x, y, 2.6 * dots) for x, y in (*((x, y) for x, y, _ in labels), *avoid)]
    crowded = 0
    for x, y, text in labels:
        written = axes.annotate(text, (x, y), fontsize=_SIZE, annotation_clip=False, bbox=_GROUND, zorder=5)
        box = written.get_window_extent(renderer)
        at = axes.transData.transform((x, y))
        place = _free(at, (box.width, box.height), dots, taken, frame)
        if place is None:
            place, crowded = (at[0] + _DISTANCES[0] * dots, at[1] - box.height / 2), crowded + 1
        box = (place[0], place[1], place[0] + box.width, place[1] + box.height)
        taken.append((box[0] - 3 * dots, box[1], box[2] + 3 * dots, box[3]))
        _move(written, axes, at, place, box, dots)
    return crowded


def spread(places: Sequence[float], least: float) -> list[float]:
    """Places moved apart to a least distance, in their order, each as near to where it was as that allows.

    Pool adjacent violators: a run that is too dense is laid out evenly around its mean.
    """
    order = sorted(range(len(places)), key=lambda i: places[i])
    runs: list[list[float]] = []  # sum of shifted places, count
    for rank, i in enumerate(order):
        runs.append([places[i] - rank * least, 1])
        while len(runs) > 1 and runs[-2][0] / runs[-2][1] > runs[-1][0] / runs[-1][1]:
            total, count = runs.pop()
            runs[-1][0] += total
            runs[-1][1] += count
    level = [total / count for total, count in runs for _ in range(int(count))]
    moved = [0.0] * len(places)
    for rank, i in enumerate(order):
        moved[i] = level[rank] + rank * least
    return moved


def label_line_ends(axes: Any, ends: Sequence[tuple[float, float, str, str]], x: float) -> None:
    """Names at the right end of lines, moved apart where lines end close together.

    Args:
        axes: with a logarithmic or linear y axis, its limits set.
        ends: x, y, text and colour of each line's end.
        x: where the names stand, in data coordinates.
    """
    figure = axes.figure
    figure.draw_without_rendering()
    height = _SIZE * 1.25 * figure.dpi / 72
    at = [axes.transData.transform((end[0], end[1]))[1] for end in ends]
    moved = spread(at, height)
    right = axes.transData.transform((x, 1.0))[0]
    for (end_x, end_y, text, colour), y in zip(ends, moved, strict=True):
        place = axes.transData.inverted().transform((right, y))
        axes.annotate(
            text,
            (end_x, end_y),
            xytext=tuple(place),
            textcoords="data",
            va="center",
            fontsize=_SIZE,
            color=colour,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": FAINT,
                "linewidth": 0.4,
                "shrinkA": 0,
                "relpos": (0, 0.5),
            },
        )


def _around(axes: Any, x: float, y: float, radius: float) -> tuple[float, float, float, float]:
    at = axes.transData.transform((x, y))
    return (at[0] - radius, at[1] - radius, at[0] + radius, at[1] + radius)


def _free(at: Any, size: tuple[float, float], dots: float, taken: list[Any], frame: Any) -> Any:
    """The lower left corner of the nearest free place in the frame, or ``None``."""
    width, height = size
    for distance, (right, up) in product(_DISTANCES, _DIRECTIONS):
        step = distance * dots * (0.75 if right and up else 1.0)
        left = at[0] + right * step - (width if right < 0 else 0 if right else width / 2)
        low = at[1] + up * step - (height if up < 0 else 0 if up else height / 2)
        box = (left, low, left + width, low + height)
        inside = frame.x0 <= box[0] and box[2] <= frame.x1 and frame.y0 <= box[1] and box[3] <= frame.y1
        if inside and not any(_overlap(box, other) for other in taken):
            return (left, low)
    return None


def _overlap(a: Sequence[float], b: Sequence[float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _move(written: Any, axes: Any, at: Any, place: Any, box: Any, dots: float) -> None:
    written.set_position(axes.transData.inverted().transform(place))
    near_x, near_y = min(max(at[0], box[0]), box[2]), min(max(at[1], box[1]), box[3])
    if max(abs(near_x - at[0]), abs(near_y - at[1])) >= _TIED_FROM * dots * 0.7:
        ends = axes.transData.inverted().transform([at, (near_x, near_y)])
        axes.plot(*ends.T, color=FAINT, linewidth=0.4, zorder=1, scalex=False, scaley=False)
