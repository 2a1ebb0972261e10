"""Memory over resolutions as text, Markdown, CSV or JSON, or as a picture."""

import csv
import io
import json
from dataclasses import asdict
from pathlib import Path

from attnbench.figures.files import COLUMN, styled
from attnbench.figures.style import COLOURS_IN_ORDER as COLOURS
from attnbench.harness.memory.sweep import Point
from attnbench.harness.memory.tracker import PARTS
from attnbench.harness.memory.usage import Usage
from attnbench.markdown import table

FORMATS = ("md", "csv", "json")


def render(points: list[Point], form: str) -> str:
    """All points in one format; bytes in CSV and JSON, MiB in Markdown."""
    if form == "json":
        return json.dumps([asdict(point) for point in points], indent=1)
    if form == "csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["resolution", "figure", *PARTS, "peak", "reserved", "largest", "operator", "line"])
        for side, figure, used in _figures(points):
            largest = [used.largest.bytes, used.largest.operator, used.largest.line] if used.largest else []
            reserved = "" if used.reserved is None else used.reserved
            parts = [used.parts[part] for part in PARTS]
            writer.writerow([side, figure, *parts, used.peak, reserved, *largest])
        return text.getvalue().rstrip("\n")
    return _markdown(points)


def _markdown(points: list[Point]) -> str:
    reserved = any(point.measured and point.measured.reserved is not None for point in points)
    header = ["px", "MiB", *PARTS, "peak", *(["reserved"] if reserved else []), "largest allocation"]
    rows = []
    for side, figure, used in _figures(points):
        row = [str(side), figure, *(_mib(used.parts[part]) for part in PARTS), _mib(used.peak)]
        if reserved:
            row.append("" if used.reserved is None else _mib(used.reserved))
        largest = used.largest
        row.append(f"{_mib(largest.bytes)}: {largest.operator}, {largest.line}" if largest else "")
        rows.append(row)
    body = table(header, rows, left=(1, len(header) - 1))
    notes = [f"{point.resolution} px: {point.missing}" for point in points if point.missing]
    notes += [
        f"{point.resolution} px: the estimate is {point.estimated.peak / point.measured.peak - 1:+.1%} off"
        for point in points
        if point.estimated and point.measured
    ]
    return "\n".join([body, *(["", *notes] if notes else [])])


@styled
def plot(points: list[Point], title: str, path: Path) -> None:
    """Stacked parts over resolutions: measured where there is a figure, else estimated (hatched).

    Raises:
        AttnbenchError: matplotlib is not installed, or the file cannot be written.
    """
    from attnbench.figures import new_figure, save_figure

    shown = [(point.resolution, point.measured or point.estimated) for point in points]
    known = [(side, used) for side, used in shown if used is not None]
    figure, axes = new_figure(COLUMN * 1.5, 3.4)
    places, floor = range(len(known)), [0.0] * len(known)
    for part in PARTS:
        heights = [used.parts[part] / 2**20 for _, used in known]
        bars = axes.bar(places, heights, bottom=floor, label=part, color=COLOURS[PARTS.index(part)])
        for bar, (_, used) in zip(bars, known, strict=True):
            bar.set_hatch("//" if used.estimated else "")
        floor = [below + height for below, height in zip(floor, heights, strict=True)]
    axes.set_xticks(list(places), [str(side) for side, _ in known])
    axes.set(xlabel="pixels a side", ylabel="MiB at the peak")
    figure.suptitle(f"{title} (hatched: estimated)", fontsize=8)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)  # of six parts, in the order stacked
    save_figure(figure, path)


def _figures(points: list[Point]) -> list[tuple[int, str, Usage]]:
    found = []
    for point in points:
        for figure, used in (("measured", point.measured), ("estimate", point.estimated)):
            if used is not None:
                found.append((point.resolution, figure, used))
    return found


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f}"
