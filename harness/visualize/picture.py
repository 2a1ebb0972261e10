"""A view drawn with matplotlib: what a token reads, where it was routed, its fields through the blocks."""

from pathlib import Path
from typing import Any

import numpy as np

from attnbench.figures import save_figure
from attnbench.harness.visualize.fields import Field
from attnbench.harness.visualize.view import View, shown

COLUMNS = 4
HEAT, COVER = "inferno", "Blues"
FAINTEST = 1e-4
"""Share of the largest derivative below which a measured field is drawn as none."""


def draw(view: View) -> Any:
    """The figure of the view of one token.

    The first row has the image with the token, the regions that it is routed to (where the mechanism routes),
    what the token reads and what it may depend on; the next two have its reach and its measured field at the
    inputs of up to four of the blocks before.
    """
    from matplotlib.figure import Figure

    chosen = _chosen(view.fields)
    rows = 1 + 2 * bool(chosen)
    figure = Figure(figsize=(3.1 * COLUMNS, 3.3 * rows + 0.9), layout="constrained")
    first, *rest = figure.subfigures(
        1 + bool(chosen), 1, height_ratios=[1, 2][: 1 + bool(chosen)], squeeze=False
    )[:, 0]
    first.suptitle(view.title, fontsize=14)
    _first_row(view, _axes(first, 1, 2 + bool(view.routed) + (view.support is not None))[0])
    for below in rest:
        axes = _axes(below, 2, len(chosen))
        for column, field in enumerate(chosen):
            _field(view, field, axes[0][column], axes[1][column])
    return figure


def _axes(part: Any, rows: int, columns: int) -> Any:
    """Axes of a part of the figure, without frames until something is drawn."""
    axes = part.subplots(rows, columns, squeeze=False)
    for one in axes.flat:
        one.set_axis_off()
    return axes


def save(view: View, path: Path) -> None:
    """Write the figure of a view; see :func:`draw`."""
    save_figure(draw(view), path)


def _chosen(fields: Any) -> list[Field]:
    """Up to four fields: the last block, the first, and two between."""
    fields = list(fields)
    if len(fields) <= COLUMNS:
        return fields
    places = np.unique(np.geomspace(1, len(fields), COLUMNS).round().astype(int))
    return [fields[place - 1] for place in places]


def _first_row(view: View, axes: Any) -> None:
    panels = iter(axes)
    axis = next(panels)
    axis.imshow(np.asarray(view.image), extent=_extent(view.size))
    column, row = _place(view)
    _mark(view, axis, f"image, token {column},{row} of {view.size[1]} × {view.size[0]}")
    if view.routed:
        axis = next(panels)
        masks = view.routed[0]
        ranks = np.zeros(view.size)
        for rank, mask in enumerate(masks):
            ranks[mask.numpy()] = 1 - 0.6 * rank / max(1, len(masks) - 1)
        _overlay(view, axis, ranks, "Greens", (0.0, 1.0))
        for mask in masks:
            _outline(axis, mask.numpy(), "white", 0.6)
        _outline(axis, masks.any(0).numpy(), "tab:green", 1.6)
        _mark(view, axis, f"routed to {len(masks)} region{'s' * (len(masks) > 1)}, best darkest")
    axis = next(panels)
    _heat(view, axis)
    if view.support is not None:
        axis = next(panels)
        support = view.support[0].numpy()
        _overlay(view, axis, support.astype(float), COVER, (0.0, 1.5))
        note = f"; {view.outside:.0%} read outside of it" if view.outside > 1e-6 else ""
        _mark(view, axis, _wrapped(f"may depend on {int(support.sum())} of {support.size} tokens{note}"))


def _heat(view: View, axis: Any) -> None:
    """What the token reads, coloured from the least to the most that it reads of a token, with the scale."""
    weights = view.reads.weights[0].numpy()
    most = float(weights.max()) or 1.0
    least = float(weights[weights > 0].min()) if (weights > 0).any() else 0.0
    if least > 0.99 * most:
        least = 0.0  # all alike: one colour, not a rainbow of rounding
    drawn = _overlay(view, axis, weights, HEAT, (least, most))
    bar = axis.figure.colorbar(
        drawn, cax=axis.inset_axes((0, -0.06, 1, 0.03)), orientation="horizontal", format=_percent
    )
    bar.solids.set_alpha(0.8)
    bar.ax.tick_params(labelsize=7)
    bar.locator = _few_ticks()
    _mark(view, axis, _wrapped(f"reads: {view.reads.definition}"))


def _percent(value: float, place: Any = None) -> str:
    """A share of all that a token reads, as a tick says it."""
    return f"{100 * value:.3g} %"


def _few_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(4)


def _field(view: View, field: Field, above: Any, below: Any) -> None:
    """Reach above, measured field below, at one depth."""
    size = tuple(field.measured.shape)
    after = f"{field.blocks} block{'s' * (field.blocks > 1)} back (input of {field.stage}.{field.block})"
    if field.reach is None:
        above.text(0.5, 0.5, "a mechanism on the way\ndeclares no support", ha="center", va="center")
    else:
        _overlay(view, above, field.reach.numpy().astype(float), COVER, (0.0, 1.5), size=size)
        reached = int(field.reach.sum())
        _mark(view, above, _wrapped(f"reach {after}: {reached} of {field.reach.numel()} tokens"))
    # By order of magnitude: the residual path outshines all that attention adds.
    orders = np.log10(np.maximum(field.measured.numpy(), FAINTEST)) - np.log10(FAINTEST)
    _overlay(view, below, orders, HEAT, (0.0, -np.log10(FAINTEST)), size=size)
    core = f"95 % of it in {field.core} token{'s' * (field.core != 1)}"
    _mark(view, below, _wrapped(f"measured field {after}, log scale from {FAINTEST:g}: {core}"))


def _overlay(
    view: View,
    axis: Any,
    values: np.ndarray,
    colours: str,
    scale: tuple[float, float],
    size: Any = None,
) -> Any:
    """Values of a map over the grey image, coloured within a scale; nothing where they are zero."""
    rows, columns = size or view.size
    extent = _extent(view.size)
    axis.imshow(shown(view.image), cmap="gray", vmin=0, vmax=1, extent=extent)
    cover = np.where(values > 0, 0.8, 0.0)
    return axis.imshow(
        values.reshape(rows, columns),
        cmap=colours,
        vmin=scale[0],
        vmax=scale[1],
        alpha=cover.reshape(rows, columns),
        extent=extent,
        interpolation="nearest",
    )


def _outline(axis: Any, mask: np.ndarray, colour: str, width: float) -> None:
    """Lines where a mask begins and ends."""
    for r, c in np.argwhere(mask):
        for dr, dc, line in (
            (-1, 0, ((c, c + 1), (r, r))),
            (1, 0, ((c, c + 1), (r + 1, r + 1))),
            (0, -1, ((c, c), (r, r + 1))),
            (0, 1, ((c + 1, c + 1), (r, r + 1))),
        ):
            inside = 0 <= r + dr < mask.shape[0] and 0 <= c + dc < mask.shape[1]
            if not (inside and mask[r + dr, c + dc]):
                axis.plot(*line, color=colour, linewidth=width)


def _mark(view: View, axis: Any, title: str) -> None:
    """The query's token as a box, and a title."""
    column, row = _place(view)
    axis.plot(
        [column, column + 1, column + 1, column, column],
        [row, row, row + 1, row + 1, row],
        color="cyan",
        linewidth=1.6,
    )
    axis.set_title(title, fontsize=8)
    axis.set_axis_on()
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_xlim(0, view.size[1])
    axis.set_ylim(view.size[0], 0)


def _place(view: View) -> tuple[int, int]:
    """Column and row of the first query."""
    row, column = divmod(int(view.queries[0]), view.size[1])
    return column, row


def _extent(size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Axes count in tokens of the view's map, from its upper left corner."""
    return 0, size[1], size[0], 0


def _wrapped(text: str, width: int = 46) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, width))
