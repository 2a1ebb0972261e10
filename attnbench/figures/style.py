"""How groups look: colours that colour-blind readers tell apart (Okabe and Ito), and a marker for each.

Colour never stands alone: the marker says the same, and so does a label beside each point.
"""

from typing import Any

from attnbench.tables.points import GROUPS

INK = "#333333"
FAINT = "#8a8a8a"
COLOURS = {
    "static": "#0072b2",
    "image": "#009e73",
    "query": "#d55e00",
    "baseline": "#000000",
    "": "#7f7f7f",
}
COLOURS_IN_ORDER = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#000000",
    "#56b4e9",
    "#8a5a00",
    "#7f7f7f",
)
"""For what has no group of its own."""
MARKERS = {"static": "o", "image": "s", "query": "^", "baseline": "D", "": "v"}
VERDICT_COLOURS = {"faster": "#0072b2", "slower": "#d55e00", "cannot tell": "#7f7f7f", "baseline": "#000000"}
"""Blue and orange, since red and green are what colour-blind readers cannot tell apart."""
VERDICT_MARKERS = {"faster": "^", "slower": "v", "cannot tell": "o", "baseline": "D"}


def key_of_groups(figure: Any, groups: set[str]) -> None:
    """A small key below the axes of the groups that are drawn, five entries at most."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=COLOURS[group], marker=MARKERS[group], linestyle="", markersize=4, label=title)
        for group, title in GROUPS.items()
        if group in groups
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, handletextpad=0.2
    )
