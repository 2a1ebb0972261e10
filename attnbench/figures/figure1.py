"""BiFormer's Figure 1 redrawn: throughput of its models relative to Swin-T, as printed and as measured."""

from typing import Any, NamedTuple

import pandas as pd

from attnbench.figures.files import PAGE, new_figure, styled
from attnbench.figures.style import COLOURS_IN_ORDER, FAINT, INK
from attnbench.statistics import ratio_interval
from attnbench.tables.points import SETTING_TITLES, SETTINGS
from attnbench.tables.render import Table

BASE = "swin_t"
"""The row of the figure's table that all others are divided by."""


class Bar(NamedTuple):
    """Throughput over that of Swin-T of the same source, in one setting."""

    row: str
    title: str
    setting: tuple[str, str]
    source: str
    value: float
    low: float | None = None
    high: float | None = None


def bars(table: Table) -> list[Bar]:
    """What the table of Figure 1 holds, printed before measured; what is missing has no bar."""
    found = []
    for row in map(str, table.raw.index):
        for mode, precision in SETTINGS:
            for source, prefix in (("printed", "published_"), ("measured", "")):
                value = table.value(row, f"{prefix}relative_{mode}_{precision}")
                if value is not None and not pd.isna(value):
                    ends = _interval(table, row, (mode, precision)) if source == "measured" else (None, None)
                    title = table.titles.get(row, row)
                    found.append(Bar(row, title, (mode, precision), source, float(value), *ends))
    return found


def _interval(table: Table, row: str, setting: tuple[str, str]) -> tuple[float | None, float | None]:
    """95 % interval of a row's speed over Swin-T's, where both were timed in the same blocks."""
    own, base = (
        next(
            (
                m
                for (name, _), m in table.measured.items()
                if name == wanted and m.name == "throughput" and (m.cell.mode, m.cell.precision) == setting
            ),
            None,
        )
        for wanted in (row, BASE)
    )
    if own is None or base is None or row == BASE or own.details.get("group") != base.details.get("group"):
        return None, None
    pairs = [(a, b) for a, b in zip(own.samples, base.samples, strict=False) if a and b]
    if len(pairs) < 2 or len(own.samples) != len(base.samples):
        return None, None
    found = ratio_interval([1 / a for a, _ in pairs], [1 / b for _, b in pairs])
    return found.low, found.high


def missing(known: list[Bar], rows: list[str]) -> list[tuple[str, tuple[str, str], str]]:
    """Row, setting and source of each bar that is not there, of rows that the source has elsewhere."""
    there = {(bar.row, bar.setting, bar.source) for bar in known}
    has = {(bar.row, bar.source) for bar in known}
    return [
        (row, setting, source)
        for row in rows
        for source in ("printed", "measured")
        for setting in SETTINGS
        if (row, source) in has and (row, setting, source) not in there
    ]


@styled
def draw(table: Table) -> Any | None:
    """One group of bars per setting; hatched bars are printed, plain ones measured. ``None`` without any."""
    known = bars(table)
    if not known:
        return None
    figure, axes = new_figure(PAGE, 3.2)
    rows = list(dict.fromkeys(bar.row for bar in known))
    width = 0.86 / (2 * len(rows))
    for bar in known:
        number, half = rows.index(bar.row), bar.source == "measured"
        x = SETTINGS.index(bar.setting) + (2 * number + half) * width
        colour = COLOURS_IN_ORDER[number % len(COLOURS_IN_ORDER)]
        style = {"color": colour} if half else {"facecolor": "white", "edgecolor": colour, "hatch": "////"}
        axes.bar(x, bar.value, width * 0.92, linewidth=0.6, **style)
        top = bar.high or bar.value
        if bar.low is not None and bar.high is not None:
            axes.plot([x, x], [bar.low, bar.high], color=INK, linewidth=0.8)
        axes.annotate(
            f"{bar.value:.2f}", (x, top), (0, 1.5), textcoords="offset points", ha="center", fontsize=5.5
        )
    for row, setting, source in missing(known, rows):
        number, half = rows.index(row), source == "measured"
        x = SETTINGS.index(setting) + (2 * number + half) * width
        axes.annotate(
            f"not {source}", (x, 0.02), ha="center", va="bottom", rotation=90, fontsize=5, color=FAINT
        )
    axes.set_xticks(
        [place + 0.43 - width / 2 for place in range(len(SETTINGS))],
        [SETTING_TITLES[setting] for setting in SETTINGS],
    )
    axes.tick_params(axis="x", length=0)
    axes.grid(False, axis="x")
    axes.axhline(1.0, color=INK, linewidth=0.6)
    axes.set(ylabel="images/s over Swin-T's")
    figure.suptitle(
        f"{table.title.partition(',')[0]} relative to Swin-T: hatched as printed, plain as measured here",
        fontsize=9,
    )
    _key(figure, rows, [next(b.title for b in known if b.row == row) for row in rows])
    return figure


def _key(figure: Any, rows: list[str], titles: list[str]) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(color=COLOURS_IN_ORDER[i % len(COLOURS_IN_ORDER)], label=title)
        for i, title in enumerate(titles)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(rows), frameon=False)
