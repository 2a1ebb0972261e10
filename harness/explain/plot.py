"""The roofline as a picture: phases under the two measured ceilings. Needs matplotlib (attnbench[report])."""

from pathlib import Path

from attnbench.errors import AttnbenchError
from attnbench.harness.explain.gap import Comparison


def roofline(comparison: Comparison, path: Path) -> None:
    """Draw each phase with MACs at its arithmetic intensity and attained FLOP/s; its area is its time.

    Args:
        comparison: the subject and, hollow, the baseline.
        path: the picture; its suffix tells the format.

    Raises:
        AttnbenchError: matplotlib is not installed, or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise AttnbenchError(f"--plot needs matplotlib ({error}); install attnbench[report]") from error
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    models = [model for model in (comparison.subject, comparison.baseline) if model is not None]
    reached: list[float] = []
    for model, filled in zip(models, (True, False), strict=False):
        rows = {key: row for key, row in model.phases.items() if row.macs and row.seconds}
        x = [row.intensity for row in rows.values()]
        y = [2 * row.macs / row.seconds / 1e9 for row in rows.values()]
        sizes = [4000 * row.seconds / model.step_s for row in rows.values()]
        colour = "C0" if filled else "C1"
        axes.scatter(
            x,
            y,
            sizes,
            alpha=0.6,
            label=model.name,
            edgecolors=colour,
            facecolors=colour if filled else "none",
        )
        reached += x
        for (_, phase), at in zip(rows, zip(x, y, strict=True), strict=True):
            if filled:
                axes.annotate(phase, at, fontsize=7)
    ceilings = comparison.ceilings
    ridge = ceilings.flops_per_s / ceilings.bytes_per_s
    ends = sorted({min([*reached, ridge]) / 2, ridge, max([*reached, ridge]) * 2})
    axes.plot(ends, [ceilings.attainable(end) / 1e9 for end in ends], color="black", linewidth=1)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="arithmetic intensity, FLOP per byte moved",
        ylabel="GFLOP/s",
        title=f"{comparison.subject.cell.layout}, {comparison.setting.mode} {comparison.setting.precision}",
    )
    axes.legend()
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise AttnbenchError(f"cannot write {path}: {error}; give --plot FILE.png, .pdf or .svg") from error
