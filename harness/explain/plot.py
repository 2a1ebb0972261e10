"""The roofline as a picture: phases under the two measured ceilings. Needs matplotlib (attnbench[report])."""

import math
from pathlib import Path

from attnbench.figures import new_figure, save_figure
from attnbench.figures.files import PAGE, styled
from attnbench.figures.labels import label_points
from attnbench.figures.style import COLOURS_IN_ORDER, INK
from attnbench.harness.explain.gap import Comparison

_EDGES = {True: COLOURS_IN_ORDER[0], False: COLOURS_IN_ORDER[1]}


@styled
def roofline(comparison: Comparison, path: Path) -> None:
    """Draw each phase with MACs at its intensity and attained FLOP/s, as large as its share of time.

    Args:
        comparison: the subject and, hollow, the baseline.
        path: the picture; its suffix tells the format.

    Raises:
        AttnbenchError: matplotlib is not installed, or the file cannot be written.
    """
    figure, axes = new_figure(PAGE * 0.75, 4.0)
    models = [model for model in (comparison.subject, comparison.baseline) if model is not None]
    labels, points = [], []
    for model, own in zip(models, (True, False), strict=False):
        for (_, phase), row in model.phases.items():
            if not (row.macs and row.seconds):
                continue
            x, y = row.intensity, 2 * row.macs / row.seconds / 1e9
            size = max(4.0, 60 * math.sqrt(row.seconds / model.step_s))
            face = COLOURS_IN_ORDER[0] if own else "none"
            axes.plot(
                x, y, "o", markersize=size / 4, markerfacecolor=face, markeredgecolor=_EDGES[own], alpha=0.7
            )
            points.append((x, y))
            if own:
                labels.append((x, y, phase))
    ceilings = comparison.ceilings
    ridge = ceilings.flops_per_s / ceilings.bytes_per_s
    reached = [x for x, _ in points]
    ends = sorted({min([*reached, ridge]) / 2, ridge, max([*reached, ridge]) * 2})
    axes.plot(ends, [ceilings.attainable(end) / 1e9 for end in ends], color=INK, linewidth=1)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="arithmetic intensity, FLOP per byte moved",
        ylabel="GFLOP/s reached",
    )
    setting, names = comparison.setting, [model.name for model in models]
    told = " and ".join(f"{name} ({how})" for name, how in zip(names, ("filled", "hollow"), strict=False))
    title = f"{told}, {comparison.subject.cell.layout}, {setting.mode} {setting.precision}"
    figure.suptitle(f"{title}; width of a point: the root of its share of the step", fontsize=8)
    label_points(axes, labels, avoid=points)
    save_figure(figure, path)
