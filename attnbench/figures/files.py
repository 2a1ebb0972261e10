"""Making and writing figures: the same look everywhere, and the same bytes for the same numbers."""

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from attnbench.errors import AttnbenchError, ImplementationError

Draw = TypeVar("Draw", bound=Callable[..., Any])
COLUMN, PAGE = 3.45, 7.16
"""Inches: the width of a column and of a page in a two-column paper."""

_LOOK: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # matplotlib brings it, so the letters are the same on every machine
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "grid.color": "#d9d9d9",
    "grid.linewidth": 0.4,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "svg.hashsalt": "attnbench",  # identifiers in a file follow from its contents
    "pdf.fonttype": 42,  # fonts that a publisher's checker accepts
    "ps.fonttype": 42,
    "savefig.facecolor": "white",
}
_NO_DATES: dict[str, dict[str, None]] = {
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
    "ps": {},
    "eps": {},
}


def check_plottable(path: Path, option: str = "--plot") -> None:
    """Fail before the work that a plot would show.

    Args:
        path: what the user gave.
        option: the option that it was given to.

    Raises:
        ImplementationError: matplotlib is not installed.
        AttnbenchError: matplotlib writes no file of that kind, or the folder does not exist.
    """
    check_kind(path.suffix.removeprefix("."), option, path)
    if not path.parent.is_dir():
        raise AttnbenchError(f"cannot write {path}: there is no folder {path.parent}; make it first")


def check_kind(kind: str, option: str, path: object = "") -> None:
    """Fail where matplotlib is missing or writes no files of a kind, such as ``pdf``.

    Raises:
        ImplementationError: matplotlib is not installed.
        AttnbenchError: it writes no file of that kind.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure  # noqa: F401
    except ImportError as error:
        raise ImplementationError(
            f"{option} needs matplotlib, which does not import ({error}); install attnbench[report]"
        ) from error
    kinds = FigureCanvasAgg.get_supported_filetypes()
    if kind.lower() not in kinds:
        got = repr(str(path) or kind)
        raise AttnbenchError(f"{option} must end with one of {', '.join(sorted(kinds))}, got {got}")


def styled(draw: Draw) -> Draw:
    """A function that draws, with our settings of matplotlib while it does, whatever the user's are."""

    @functools.wraps(draw)
    def with_look(*args: Any, **kwargs: Any) -> Any:
        import matplotlib

        settings: dict[Any, Any] = {**matplotlib.rcParamsDefault, **_LOOK, "backend": "agg"}
        with matplotlib.rc_context(settings):
            return draw(*args, **kwargs)

    return with_look  # type: ignore[return-value]


@styled
def new_figure(width: float = PAGE, height: float = 4.4, **subplots: Any) -> tuple[Any, Any]:
    """A figure of that many inches and its axes; no display is needed.

    ``subplots`` are arguments of ``Figure.subplots``; with more than one, the axes come as an array.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(**subplots)
    for own in figure.axes:
        own.grid(True, which="major")
    return figure, axes


@styled
def save_figure(figure: Any, path: Path, option: str = "--plot") -> None:
    """Write a figure; the ending chooses the format. The file holds no date and no name of a machine.

    Raises:
        AttnbenchError: the file cannot be written.
    """
    metadata = _NO_DATES.get(path.suffix.removeprefix(".").lower())
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a plug-in's title
            figure.savefig(path, dpi=200, metadata=metadata)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise AttnbenchError(f"cannot write {path}: {why}; give another {option}") from error
