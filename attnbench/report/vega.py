"""What all charts of the report share: Altair, how a chart is themed, and what is told at the pointer."""

from typing import Any, NamedTuple

from attnbench.errors import ImplementationError

try:
    import altair as alt
except ImportError as error:
    raise ImplementationError(
        f"the report needs altair, which does not import ({error}); install attnbench[report]"
    ) from error

__all__ = ["FAINT", "INK", "Chart", "alt", "themed", "tip"]

INK, FAINT = "var(--ink)", "var(--rule)"


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
