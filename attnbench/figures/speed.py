"""Speed beside the baseline's: every mechanism in four settings, with its interval and the verdict."""

from typing import Any

from attnbench.figures.files import PAGE, new_figure, styled
from attnbench.figures.style import INK, VERDICT_COLOURS, VERDICT_MARKERS
from attnbench.tables.points import SETTING_TITLES, SETTINGS, Point, ratios
from attnbench.tables.render import Table

_TICKS = (0.5, 0.6, 0.7, 0.8, 1.0, 1.25, 1.5, 2.0)


@styled
def draw(table: Table) -> Any | None:
    """A panel per setting, a line per mechanism; ``None`` if no speed has a ratio.

    Rows are ordered by the ratio in the first setting that has any.
    """
    by_setting = {setting: found for setting in SETTINGS if (found := ratios(table, *setting))}
    if not by_setting:
        return None
    names = _order(by_setting)
    figure, axes = new_figure(
        PAGE, 1.0 + 0.145 * len(names), ncols=len(by_setting), sharey=True, squeeze=False
    )
    for panel, (setting, found) in zip(axes[0], by_setting.items(), strict=True):
        _panel(panel, found, [row for row, _ in names], SETTING_TITLES[setting])
    first = axes[0, 0]
    first.set_yticks(range(len(names)), [title for _, title in names])
    first.set_ylim(len(names) - 0.4, -0.6)
    points = (point for found in by_setting.values() for point in found)
    baseline = next((point.title for point in points if point.verdict == "baseline"), "the baseline")
    key = "▲ faster   ▼ slower   ● cannot tell"
    figure.supxlabel(f"speed over that of {baseline}, 95 % interval    {key}", fontsize=8, color=INK)
    figure.suptitle(_title(table), fontsize=9)
    return figure


def _title(table: Table) -> str:
    machine = next((m.cell.machine for m in table.measured.values() if m.name == "throughput"), "")
    return f"Speed of attention mechanisms in {table.layout}, {table.resolution} px, on {machine}"


def _order(by_setting: dict[tuple[str, str], list[Point]]) -> list[tuple[str, str]]:
    """Rows with their titles, fastest first."""
    known: dict[str, tuple[float, str]] = {}
    for found in by_setting.values():
        for point in found:
            known.setdefault(point.row, (point.value, point.title))
    return [(row, title) for row, (_, title) in sorted(known.items(), key=lambda item: -item[1][0])]


def _panel(axes: Any, found: list[Point], rows: list[str], title: str) -> None:
    axes.set(xscale="log", title=title)
    axes.axvline(1.0, color=INK, linewidth=0.8)
    for point in found:
        y, colour = rows.index(point.row), VERDICT_COLOURS.get(point.verdict, INK)
        if point.low is not None and point.high is not None:
            axes.plot([point.low, point.high], [y, y], color=colour, linewidth=1.1, solid_capstyle="butt")
        axes.plot(point.value, y, VERDICT_MARKERS.get(point.verdict, "o"), color=colour, markersize=3.6)
    ends = [end for p in found for end in (p.low or p.value, p.high or p.value)]
    low, high = min(ends) * 0.95, max(ends) * 1.05
    axes.set_xlim(low, high)
    shown = [tick for tick in _TICKS if low <= tick <= high]
    while len(shown) > 5:
        shown = [t for t in shown if t == 1.0 or shown.index(t) % 2 == 0]
    axes.set_xticks(shown, [f"{tick:g}" for tick in shown])
    axes.minorticks_off()
    axes.tick_params(axis="y", length=0)
