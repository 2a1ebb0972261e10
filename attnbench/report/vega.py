"""What all charts of the report share: Altair, how a chart is themed, and what is told at the pointer."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from attnbench.errors import ImplementationError

try:
    import altair as alt
except ImportError as error:
    raise ImplementationError(
        f"the report needs altair, which does not import ({error}); install attnbench[report]"
    ) from error

__all__ = ["FAINT", "INK", "Chart", "alt", "names_beside", "themed", "tip"]

INK, FAINT = "var(--ink)", "var(--rule)"
_SIDES: tuple[tuple[Literal["left", "right"], int], ...] = (("left", 7), ("right", -7))


class Chart(NamedTuple):
    """A chart and what a reader who cannot see it is told.

    Args:
        name: identifier in the page.
        title: what it shows, in a few words.
        says: what is to be seen in it, in a sentence or two.
        spec: Vega-Lite, as JSON holds it.
    """

    name: str
    title: str
    says: str
    spec: dict[str, Any]


_TIP_TITLES = {
    "title": "mechanism",
    "value": "over the baseline's",
    "low": "from (95 %)",
    "high": "to (95 %)",
    "x_low": "x from",
    "x_high": "x to",
    "y_low": "y from",
    "y_high": "y to",
    "px": "pixels a side",
    "macs": "MACs (G)",
    "p": "fitted exponent",
    "share": "percent of the step",
    "roof": "percent of the roof",
}


def tip(*fields: str) -> list[Any]:
    """What is told at the pointer; a field's type stands behind its name, as Altair writes it."""
    return [_told(*field.split(":")) for field in fields]


def _told(name: str, kind: str) -> Any:
    title = _TIP_TITLES.get(name, name)
    if kind == "Q":
        return alt.Tooltip(f"{name}:Q", title=title, format=".4~g")
    return alt.Tooltip(f"{name}:N", title=title)


def names_beside(
    base: Any, x: Any, y: Any, points: Sequence[dict[str, Any]], shown: str, **style: Any
) -> list[Any]:
    """Titles beside points, on the side that ``name_at`` says, of those whose field ``shown`` is true."""
    return [
        base.mark_text(align=align, dx=dx, fill=INK, **style)
        .transform_filter(f"datum.{shown} && datum.name_at == '{align}'")
        .encode(x=x, y=y, text="title:N")
        for align, dx in _SIDES
        if any(point[shown] and point["name_at"] == align for point in points)
    ]


def themed(name: str, title: str, says: str, chart: Any) -> Chart:
    """A chart with the colours of the page, and its words for those who cannot see it."""

    whole = chart.configure(
        background="transparent",
        font="system-ui, sans-serif",
        axis=alt.AxisConfig(
            labelColor=INK,
            titleColor=INK,
            gridColor="var(--grid)",
            domainColor=FAINT,
            tickColor=FAINT,
            titleFontWeight="normal",
        ),
        legend=alt.LegendConfig(labelColor=INK, titleColor=INK),
        title=alt.TitleConfig(color=INK, fontWeight="normal"),
        header=alt.HeaderConfig(labelColor=INK, labelFontSize=12),
        view=alt.ViewConfig(stroke=None),
    ).properties(description=f"{title}. {says}")
    return Chart(name, title, says, whole.to_dict())
