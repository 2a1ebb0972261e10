"""Plots, for which matplotlib is needed: an optional extra, asked for by name where it is missing."""

from pathlib import Path
from typing import Any

from attnbench.errors import AttnbenchError, ImplementationError


def check_plottable(path: Path) -> None:
    """Fail before the work that a plot would show.

    Raises:
        ImplementationError: matplotlib is not installed.
        AttnbenchError: matplotlib writes no file of that kind, or the folder does not exist.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError as error:
        raise ImplementationError(
            f"--plot needs matplotlib, which does not import ({error}); install attnbench[report]"
        ) from error
    kinds = FigureCanvasAgg.get_supported_filetypes()
    kind = path.suffix.removeprefix(".").lower()
    if kind not in kinds:
        raise AttnbenchError(f"--plot must end with one of {', '.join(sorted(kinds))}, got {str(path)!r}")
    if not path.parent.is_dir():
        raise AttnbenchError(f"cannot write {path}: there is no folder {path.parent}; make it first")


def new_figure(width: float = 7.0, height: float = 5.0) -> tuple[Any, Any]:
    """A figure of that many inches and its axes; no display is needed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.grid(True, which="major", linewidth=0.3)
    return figure, axes


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure; the ending chooses the format.

    Raises:
        AttnbenchError: the file cannot be written.
    """
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise AttnbenchError(f"cannot write {path}: {error.strerror}; give another --plot") from error
