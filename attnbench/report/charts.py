"""Charts of the report as Vega-Lite, made with Altair.

Colours are the page's CSS variables, so that charts follow light, dark and print without a line of script.
Colour never stands alone: a shape says the same. All text comes from records and plug-ins; Vega draws it as
text, never as markup.
"""

from collections.abc import Sequence
from typing import Any

from attnbench.figures.figure1 import Bar
from attnbench.figures.pareto import Cost, Quality
from attnbench.report.vega import FAINT, INK, Chart, alt, names_beside, themed, tip
from attnbench.tables.points import GROUPS, SETTING_TITLES, SETTINGS, Line, Point, front

VERDICTS = ("faster", "slower", "cannot tell", "baseline")
_GROUP_COLOURS = {group: f"var(--{group or 'other'})" for group in GROUPS}
_GROUP_SHAPES = {
    "static": "circle",
    "image": "square",
    "query": "triangle-up",
    "baseline": "diamond",
    "": "triangle-down",
}


def speed(by_setting: dict[tuple[str, str], list[Point]], baseline: str) -> Chart | None:
    """Ratios to the baseline with their intervals, a panel for each setting."""
    if not by_setting:
        return None
    order = list(
        dict.fromkeys(p.title for ps in by_setting.values() for p in sorted(ps, key=lambda p: -p.value))
    )
    panels = []
    for number, (setting, points) in enumerate(by_setting.items()):
        rows = [
            _row(p)
            | {"verdict": p.verdict or "cannot tell", "low": p.low or p.value, "high": p.high or p.value}
            for p in points
        ]
        y = alt.Y(
            "title:N", sort=order, title=None, axis=alt.Axis(labels=number == 0, ticks=False, labelLimit=220)
        )
        x = alt.X(
            "value:Q",
            scale=alt.Scale(type="log", nice=False, padding=12),
            title=None,
            axis=alt.Axis(values=[0.5, 0.7, 1, 1.4, 2], format="~g"),
        )
        colour = alt.Color(
            "verdict:N",
            scale=alt.Scale(domain=list(VERDICTS), range=[f"var(--{v.replace(' ', '-')})" for v in VERDICTS]),
            legend=alt.Legend(orient="bottom", title=None),
        )
        shape = alt.Shape(
            "verdict:N",
            scale=alt.Scale(
                domain=list(VERDICTS), range=["triangle-up", "triangle-down", "circle", "diamond"]
            ),
            legend=alt.Legend(orient="bottom", title=None),
        )
        base = alt.Chart(alt.Data(values=rows, name=f"speed{number}"))
        told = tip("title:N", "value:Q", "low:Q", "high:Q", "verdict:N")
        panels.append(
            alt.layer(
                alt.Chart(alt.Data(values=[{"one": 1}], name="one")).mark_rule(stroke=INK).encode(x="one:Q"),
                base.mark_rule(strokeWidth=2)
                .encode(y=y, x=x, x2="high:Q", color=colour)
                .transform_calculate(value="datum.low"),
                base.mark_point(filled=True, size=55, opacity=1).encode(
                    y=y, x=x, color=colour, shape=shape, tooltip=told
                ),
            ).properties(title=SETTING_TITLES[setting], width=170, height=17 * len(order))
        )
    chart = alt.hconcat(*panels, spacing=12).resolve_scale(color="shared", shape="shared")
    return themed(
        "speed", f"Speed over that of {baseline}, with 95 % intervals", _speed_says(by_setting), chart
    )


def _speed_says(by_setting: dict[tuple[str, str], list[Point]]) -> str:
    parts = []
    for setting, points in by_setting.items():
        count = {v: sum(p.verdict == v for p in points) for v in VERDICTS}
        parts.append(
            f"{SETTING_TITLES[setting]}: {count['faster']} faster than the baseline, "
            f"{count['slower']} slower, {count['cannot tell']} not told apart from it"
        )
    return "; ".join(parts) + "."


def pareto(cost: Cost, quality: Quality, number: int) -> Chart | None:
    """An accuracy against one cost, intervals drawn, with the front of those that none beats in both."""
    rows = [row for row in quality.points if row in cost.points]
    if len(rows) < 2:
        return None
    points = []
    for row in rows:
        x, y = cost.points[row], quality.points[row]
        points.append(
            _row(x)
            | {"x": x.value, "x_low": x.low or x.value, "x_high": x.high or x.value}
            | {"y": y.value, "y_low": y.low or y.value, "y_high": y.high or y.value}
        )
    kept = front([(p["x"], p["y"]) for p in points], less_is_better=cost.less_is_better)
    ends = [end for p in points for end in (p["x_low"], p["x_high"])]
    for place, point in enumerate(points):
        point["front"] = place in kept
        point["name_at"] = "left" if point["x"] < (min(ends) + max(ends)) / 2 else "right"
    _name_what_has_room(points, [points[i] for i in kept], max(ends) - min(ends))
    data = alt.Data(values=points, name=f"pareto{number}")
    x_axis = alt.X("x:Q", title=cost.title.replace("\n", " "), scale=alt.Scale(zero=False, padding=18))
    percent = alt.Axis(labelExpr="datum.value > 100 ? '' : datum.label")
    y_axis = alt.Y("y:Q", title=quality.title, scale=alt.Scale(zero=False, padding=14), axis=percent)
    groups = [group for group in GROUPS if any(p["group"] == GROUPS[group] for p in points)]
    colour = alt.Color(
        "group:N",
        scale=_scale(groups, _GROUP_COLOURS),
        legend=alt.Legend(orient="bottom", title=None, columns=2),
    )
    shape = alt.Shape(
        "group:N",
        scale=_scale(groups, _GROUP_SHAPES),
        legend=alt.Legend(orient="bottom", title=None, columns=2),
    )
    base = alt.Chart(data)
    told = tip("title:N", "group:N", "x:Q", "x_low:Q", "x_high:Q", "y:Q", "y_low:Q", "y_high:Q")
    chart = alt.layer(
        base.mark_line(strokeDash=[4, 3], stroke=FAINT, strokeWidth=1.5)
        .transform_filter("datum.front")
        .encode(x=x_axis, y=y_axis, order="x:Q"),
        base.mark_rule(opacity=0.45).encode(x=alt.X("x_low:Q"), x2="x_high:Q", y="y:Q", color=colour),
        base.mark_rule(opacity=0.45).encode(y=alt.Y("y_low:Q"), y2="y_high:Q", x="x:Q", color=colour),
        base.mark_point(filled=True, size=60, opacity=1).encode(
            x=x_axis, y=y_axis, color=colour, shape=shape, tooltip=told
        ),
        *names_beside(base, x_axis, y_axis, points, "named", dy=-6, fontSize=10),
    ).properties(width="container", height=300)
    best = ", ".join(points[i]["title"] for i in kept)
    title = f"{quality.title.partition(' (')[0]} against {cost.title.partition(' (')[0]}".replace("\n", " ")
    return themed(f"pareto{number}", title, f"None beats these in both: {best}.", chart)


def _name_what_has_room(points: list[dict[str, Any]], front: list[dict[str, Any]], width: float) -> None:
    """Mark the points of the front whose name covers no other name: each is a third of the panel wide."""
    height = max(p["y_high"] for p in points) - min(p["y_low"] for p in points)
    named: list[dict[str, Any]] = []
    for point in points:
        point["named"] = False
    for point in sorted(front, key=lambda p: -p["y"]):
        point["named"] = all(
            abs(point["x"] - p["x"]) > width / 3 or abs(point["y"] - p["y"]) > height / 20 for p in named
        )
        named += [point] if point["named"] else []


def figure1(bars: Sequence[Bar]) -> Chart | None:
    """Throughput over Swin-T's, printed and measured."""
    if not bars:
        return None
    rows = [
        {
            "model": f"{bar.title}, {bar.source}",
            "title": bar.title,
            "source": bar.source,
            "setting": SETTING_TITLES[bar.setting],
            "value": bar.value,
            "low": bar.low or bar.value,
            "high": bar.high or bar.value,
        }
        for bar in bars
    ]
    models = list(dict.fromkeys(str(row["model"]) for row in rows))
    y = alt.Y("model:N", sort=models, title=None, axis=alt.Axis(labelLimit=220))
    base = alt.Chart(alt.Data(values=rows, name="figure1"))
    colour = alt.Color(
        "source:N",
        scale=alt.Scale(domain=["printed", "measured"], range=["var(--rule)", "var(--faster)"]),
        legend=alt.Legend(orient="bottom", title=None),
    )
    chart = (
        alt.layer(
            base.mark_bar(height=11).encode(
                x=alt.X("value:Q", title="images/s over Swin-T's"),
                y=y,
                color=colour,
                tooltip=tip("model:N", "setting:N", "value:Q", "low:Q", "high:Q"),
            ),
            base.mark_rule(stroke=INK)
            .transform_filter("datum.source == 'measured'")
            .encode(x="low:Q", x2="high:Q", y=y),
            base.mark_text(align="left", dx=4, fontSize=10, fill=INK).encode(
                x="high:Q", y=y, text=alt.Text("value:Q", format=".2f")
            ),
        )
        .properties(width=300, height=19 * len(models))
        .facet(
            facet=alt.Facet("setting:N", title=None, sort=[SETTING_TITLES[s] for s in SETTINGS]), columns=2
        )
    )
    parts = []
    for model in models:
        own = [f"{row['value']:.2f}" for row in rows if row["model"] == model and row["title"] != "Swin-T"]
        parts += [f"{model} {', '.join(own)}"] if own else []
    says = f"In the order of the panels: {'; '.join(parts)}."
    return themed("figure1", "Figure 1 of BiFormer: throughput relative to Swin-T", says, chart)


def growth(lines: Sequence[Line]) -> Chart | None:
    """MACs against resolution, a panel for each declared power of N; a click on a name lifts its line."""
    known = [line for line in lines if line.exponent is not None and any(line.macs.values())]
    if not known:
        return None
    rows = [
        {"title": line.title, "px": px, "macs": macs / 1e9, "law": _law(line.declared), "p": line.exponent}
        for line in known
        for px, macs in sorted(line.macs.items())
        if macs
    ]
    base = alt.Chart(alt.Data(values=rows, name="growth"))
    x = alt.X(
        "px:Q", scale=alt.Scale(type="log"), title="pixels a side", axis=alt.Axis(values=[56, 224, 512, 2048])
    )
    y = alt.Y("macs:Q", scale=alt.Scale(type="log"), title="MACs of two blocks (G)")
    laws = list(
        dict.fromkeys(_law(line.declared) for line in sorted(known, key=lambda line: line.declared or 0))
    )
    last = max(max(line.macs) for line in known)
    chart = (
        alt.layer(
            base.mark_line(stroke="var(--faster)", strokeWidth=1.2, opacity=0.7).encode(
                x=x, y=y, detail="title:N"
            ),
            base.mark_point(filled=True, size=22, fill="var(--faster)").encode(
                x=x, y=y, tooltip=tip("title:N", "px:Q", "macs:Q", "p:Q")
            ),
        )
        .properties(width=300, height=230)
        .facet(facet=alt.Facet("law:N", title=None, sort=laws), columns=2)
    )
    off = [line.title for line in known if line.declared is not None and not _as_declared(line)]
    says = f"Counted from {min(min(line.macs) for line in known)} to {last} px. " + (
        f"Not as declared: {', '.join(off)}." if off else "Every fitted exponent is the one declared."
    )
    return themed("growth", "Growth of the cost with resolution, by declared law", says, chart)


def _as_declared(line: Line) -> bool:
    if line.exponent is None or line.declared is None or line.low is None or line.high is None:
        return True
    return line.low <= line.declared <= line.high or abs(line.exponent - line.declared) <= 0.02


def _law(declared: float | None) -> str:
    return "no power declared" if declared is None else f"MACs ~ N^{declared:.3g}"


def _scale(groups: list[str], by_group: dict[str, str]) -> Any:
    return alt.Scale(domain=[GROUPS[group] for group in groups], range=[by_group[group] for group in groups])


def _row(point: Point) -> dict[str, Any]:
    return {"title": point.title, "group": GROUPS[point.group], "value": point.value}
