"""Growth of the cost with resolution, a panel for each power of N that mechanisms declare."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from attnbench.figures.files import PAGE, new_figure, styled
from attnbench.figures.labels import label_line_ends
from attnbench.figures.style import COLOURS_IN_ORDER, FAINT
from attnbench.tables.points import Line

_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1)))
_ROOM = 3.4
"""How many times as far as the last point the x axis goes, for the names."""


@styled
def draw(lines: Sequence[Line], title: str) -> Any | None:
    """MACs against resolution, both logarithmic; mechanisms of one law share a panel.

    A dotted line shows the law that the panel is named for. ``None`` if nothing has multiply-adds.

    Args:
        lines: as counted; those without multiply-adds are left out.
        title: where they were counted.
    """
    by_law: dict[str, list[Line]] = {}
    for line in sorted(lines, key=lambda line: line.declared or 0):
        if line.exponent is not None and any(line.macs.values()):
            by_law.setdefault(law(line.declared), []).append(line)
    if not by_law:
        return None
    rows = -(-len(by_law) // 2)
    figure, axes = new_figure(
        PAGE, 0.6 + 2.9 * rows, nrows=rows, ncols=min(2, len(by_law)), sharex=True, sharey=True, squeeze=False
    )
    for panel in axes.flat[len(by_law) :]:
        panel.set_visible(False)
    drawn = list(zip(axes.flat, by_law.items(), strict=False))
    for panel, (name, own) in drawn:
        _panel(panel, name, own)
    figure.supxlabel("resolution (px a side)", fontsize=8)
    figure.supylabel("MACs of two blocks (G)", fontsize=8)
    figure.suptitle(title, fontsize=9)
    for panel, (_, own) in drawn:
        _label(panel, own)
    return figure


def law(exponent: float | None) -> str:
    """``O(N^4/3)`` with its exponent raised, for a title."""
    if exponent is None:
        return "no power of N declared"
    power = Fraction(exponent).limit_denominator(12)
    return "O(N)" if power == 1 else f"O(N$^{{{power}}}$)"


def _panel(axes: Any, name: str, lines: list[Line]) -> None:
    for number, line in enumerate(lines):
        points = sorted((px, macs / 1e9) for px, macs in line.macs.items() if macs)
        dash = _DASHES[number // len(COLOURS_IN_ORDER) % len(_DASHES)]
        axes.plot(*zip(*points, strict=True), color=_colour(number), linestyle=dash, linewidth=1.0)
    first = sorted(lines[0].macs)
    end = max(lines[0].macs.values()) / 1e9
    if lines[0].declared is not None:
        law_y = [2.5 * end * (px / first[-1]) ** (2 * lines[0].declared) for px in first]
        axes.plot(first, law_y, color=FAINT, linestyle=":", linewidth=0.9)
    axes.set(xscale="log", yscale="log")
    axes.set_title(f"{name}, dotted: the law", loc="left")
    ticks = [px for px in (56, 224, 512, 2048) if first[0] <= px <= first[-1]]
    axes.set_xticks(ticks, [str(px) for px in ticks])
    axes.minorticks_off()
    axes.set_xlim(first[0] * 0.9, first[-1] * _ROOM * 3)


def _label(axes: Any, lines: list[Line]) -> None:
    """Names with fitted exponents at the lines' ends, moved apart."""
    ends = []
    for number, line in enumerate(lines):
        px = max(line.macs)
        text = f"{line.title}: {line.exponent:.2f}"
        ends.append((px, line.macs[px] / 1e9, text, _colour(number)))
    label_line_ends(axes, ends, max(max(line.macs) for line in lines) * 1.35)


def _colour(number: int) -> str:
    return COLOURS_IN_ORDER[number % len(COLOURS_IN_ORDER)]
