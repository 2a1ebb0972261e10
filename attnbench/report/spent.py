"""The part of the report that says where the time of a step goes, with the machine's roofline."""

import math
from collections.abc import Sequence
from typing import Any

from attnbench.report.vega import FAINT, INK, Chart, alt, names_beside, themed, tip
from attnbench.tables.points import GROUPS
from attnbench.tables.time_spent import Part, Spent

ABOUT = (
    "One step of each mechanism, operator by operator. Projections are layers of the attention that hold "
    "weights, data movement is what only copies or reorders, the attention core is the rest of it. The step "
    "is compared with the baseline's in the same rounds, = where the two cannot be told apart."
)
HEADS = ("mechanism", "step, ms", "times as long", "FLOP/byte, core", "of the roof, core", "why")
_LOG = alt.Axis(values=[d * 10.0**e for e in range(-2, 5) for d in (1, 3)], format="~g")
"""Of an axis that spans decades: a line for each tick of the default would be a mesh."""
_ROOM = (0.3, 0.06)
"""Of a name: its width and height as parts of what the points span."""
_COLOURS = ("var(--slower)", "var(--static)", "var(--image)", "var(--rule)", "var(--grid)")


def bars(found: Sequence[Spent], number: int) -> Chart:
    """A bar for each step, cut into its groups, with the ratio to the baseline's step behind it."""
    rows: list[dict[str, Any]] = [
        {"title": one.title, "group": name, "at": place, "ms": part.seconds * 1e3, "share": 100 * part.share}
        for one in found
        for place, (name, part) in enumerate(one.parts.items())
    ]
    ends: list[dict[str, Any]] = [
        {"title": o.title, "ms": sum(p.seconds for p in o.parts.values()) * 1e3, "says": o.beside}
        for o in found
    ]
    names = list(found[0].parts)
    y = alt.Y("title:N", sort=[one.title for one in found], title=None, axis=alt.Axis(labelLimit=220))
    room = max(end["ms"] for end in ends) * 1.6  # for the text behind the longest
    x = alt.X("ms:Q", title="ms a step", scale=alt.Scale(domain=[0, room], nice=False))
    chart = alt.layer(
        alt.Chart(alt.Data(values=rows, name=f"spent{number}"))
        .mark_bar(height=12, stroke="var(--paper)", strokeWidth=0.6)
        .encode(
            y=y,
            x=x,
            color=alt.Color(
                "group:N",
                scale=alt.Scale(domain=names, range=list(_COLOURS[: len(names)])),
                legend=alt.Legend(orient="bottom", title=None, columns=2),
            ),
            order=alt.Order("at:Q"),
            tooltip=tip("title:N", "group:N", "ms:Q", "share:Q"),
        ),
        alt.Chart(alt.Data(values=ends, name=f"steps{number}"))
        .mark_text(align="left", dx=4, fontSize=10, fill=INK)
        .encode(y=y, x=x, text="says:N"),
    ).properties(width="container", height=18 * len(found))
    longest = max(found, key=lambda one: one.core.share)
    says = (
        f"Behind each bar: times as long as {_baseline(found)}'s step, with its 95 % interval; ▲ faster, "
        f"▼ slower, = cannot tell. The attention core takes most of the step in {longest.title} "
        f"({longest.core.share:.0%})."
    )
    return themed(f"spent{number}", "Where the time of a step goes", says, chart)


def roofline(found: Sequence[Spent], number: int) -> Chart | None:
    """Attention cores under the two ceilings of the machine: the higher a point, the less is wasted."""
    shown = [one for one in found if one.core.flops_per_s and one.core.intensity]
    if not shown:
        return None
    peak, bandwidth = max(one.peak for one in shown), max(one.bandwidth for one in shown)
    rows: list[dict[str, Any]] = [
        {
            "title": one.title,
            "group": GROUPS[one.group],
            "x": one.core.intensity,
            "y": one.core.flops_per_s / 1e9,
            "roof": 100 * one.core.of_roof,
        }
        for one in shown
    ]
    left, right = (
        min(row["x"] for row in rows) / 1.5,
        max(*(row["x"] for row in rows), peak / bandwidth) * 1.5,
    )
    for row, named in zip(rows, _with_room(rows), strict=True):
        row["named"] = named
        row["name_at"] = "left" if row["x"] < math.sqrt(left * right) else "right"
    roof = [{"x": x, "y": min(peak, x * bandwidth) / 1e9} for x in sorted((left, peak / bandwidth, right))]
    x = alt.X("x:Q", scale=alt.Scale(type="log", nice=False), title="FLOP per byte moved", axis=_LOG)
    y = alt.Y("y:Q", scale=alt.Scale(type="log", nice=False, padding=12), title="GFLOP/s reached", axis=_LOG)
    base = alt.Chart(alt.Data(values=rows, name=f"roofline{number}"))
    chart = alt.layer(
        alt.Chart(alt.Data(values=roof, name=f"roof{number}"))
        .mark_line(stroke=FAINT, strokeWidth=2)
        .encode(x=x, y=y),
        base.mark_point(filled=True, size=55, opacity=1, fill="var(--faster)").encode(
            x=x, y=y, tooltip=tip("title:N", "group:N", "x:Q", "y:Q", "roof:Q")
        ),
        *names_beside(base, x, y, rows, "named", fontSize=9),
    ).properties(width="container", height=340)
    best = max(shown, key=lambda one: one.core.of_roof)
    least = min(shown, key=lambda one: one.core.of_roof)
    says = (
        f"The line is the machine's roofline: {peak / 1e9:,.0f} GFLOP/s of a matrix product and "
        f"{bandwidth / 1e9:,.1f} GB/s of a triad, the best of those measured before each mechanism. "
        f"{best.title} comes nearest to it ({best.core.of_roof:.0%}), {least.title} stays farthest "
        f"({least.core.of_roof:.0%}). Names stand where there is room; point at the others for theirs."
    )
    return themed(f"roofline{number}", "Attention cores under the roofline", says, chart)


def _with_room(rows: Sequence[dict[str, Any]]) -> list[bool]:
    """Whether a name fits beside its point, those at the ends of the share of the roof first."""
    spans = [max(math.log(max(r[k] for r in rows) / min(r[k] for r in rows)), 1e-9) for k in ("x", "y")]
    middle = sorted(row["roof"] for row in rows)[len(rows) // 2]
    kept: list[int] = []
    for i in sorted(range(len(rows)), key=lambda i: -abs(rows[i]["roof"] - middle)):
        apart = [
            abs(math.log(rows[i]["x"] / rows[j]["x"])) / spans[0] > _ROOM[0]
            or abs(math.log(rows[i]["y"] / rows[j]["y"])) / spans[1] > _ROOM[1]
            for j in kept
        ]
        if all(apart):
            kept.append(i)
    return [i in kept for i in range(len(rows))]


def rows(found: Sequence[Spent]) -> tuple[list[str], list[list[str]]]:
    """The same as a table: milliseconds, share of the step with its interval, and the reason in words."""
    names = list(found[0].parts)
    heads = [*HEADS[:3], *(f"{name}, ms" for name in names), *HEADS[3:]]
    body = []
    for one in found:
        core = [f"{one.core.intensity:.1f}", f"{one.core.of_roof:.0%}"] if one.core.seconds else ["", ""]
        cells = [_cell(one.parts[name]) for name in names]
        body.append([one.title, f"{one.step_s * 1e3:.1f}", one.beside, *cells, *core, _why(one)])
    return heads, body


def _why(one: Spent) -> str:
    """The diagnosis without what the other columns say."""
    return one.diagnosis.partition(": ")[2] or one.diagnosis


def _cell(part: Part) -> str:
    if not part.seconds:
        return ""
    wide = "" if part.half_width is None else f" ± {100 * part.half_width:.0f}"
    return f"{part.seconds * 1e3:.1f} ({100 * part.share:.0f}{wide} %)"


def _baseline(found: Sequence[Spent]) -> str:
    return next((one.baseline for one in found if one.baseline), "the baseline")
