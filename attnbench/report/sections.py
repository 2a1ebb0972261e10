"""The parts of the report below the table, as far as the records hold them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from attnbench.errors import AttnbenchError
from attnbench.figures import figure1 as figure_1
from attnbench.figures import pareto
from attnbench.record import Measurement
from attnbench.report import charts as draw
from attnbench.report import spent as spent_part
from attnbench.report.vega import Chart
from attnbench.tables.ablation import ablation
from attnbench.tables.grid import with_interval
from attnbench.tables.growth import recorded
from attnbench.tables.paper_table import rebuilt
from attnbench.tables.papers import get_paper_table
from attnbench.tables.points import SETTING_TITLES, SETTINGS, Point, ratios, values
from attnbench.tables.probe_profile import HOPS, WORDS, Profile, profiles, why
from attnbench.tables.render import Table, title_of
from attnbench.tables.time_spent import spent


@dataclass(frozen=True)
class Extra:
    """A part that somebody else made, as HTML that is taken as it is."""

    anchor: str
    heading: str
    html: Markup


@dataclass(frozen=True)
class Part:
    """A table of text."""

    title: str
    text: str
    heads: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Charts:
    """A part that consists of charts, with tables of the same below them."""

    anchor: str
    heading: str
    about: str
    charts: list[Chart]
    parts: list[Part] = field(default_factory=list)


@dataclass(frozen=True)
class Tables:
    """A part that consists of tables."""

    anchor: str
    heading: str
    about: str
    parts: list[Part]


def charts(table: Table, records: Sequence[Measurement]) -> list[Charts]:
    """The parts that records are there for; none is shown empty."""
    found = [
        _speed(table),
        _price(table),
        _figure1(records),
        _spent(table, records),
        _growth(table, records),
    ]
    return [part for part in found if part.charts]


def tables(table: Table, records: Sequence[Measurement]) -> list[Tables]:
    """Parts in which numbers say more than a chart would."""
    return [*_machines(table, records), *_probes(records)]


def _machines(table: Table, records: Sequence[Measurement]) -> list[Tables]:
    """Speeds side by side, where the records are of several machines."""
    names = sorted({m.cell.machine for m in records if m.cell.machine and m.name == "throughput"})
    if len(names) < 2 or table.layout is None:
        return []
    own = {name: _ablation(name, table, records) for name in names}
    parts = []
    for setting in SETTINGS:
        found = {name: {p.row: p for p in ratios(of, *setting)} for name, of in own.items() if of}
        found = {name: points for name, points in found.items() if points}
        rows = list(dict.fromkeys(row for points in found.values() for row in points))
        if rows:
            cells = [[title_of(row), *(_over(points.get(row)) for points in found.values())] for row in rows]
            text = "Speed over the baseline's on the same machine, with its 95 % interval and verdict."
            parts.append(Part(SETTING_TITLES[setting], text, ["mechanism", *found], cells))
    about = "Each machine by its own records: nothing is divided by what another machine measured."
    return [Tables("machines", "Machines side by side", about, parts)] if parts else []


def _ablation(machine: str, table: Table, records: Sequence[Measurement]) -> Table | None:
    """The table of one machine's records, in the layout and at the resolution of another table."""
    own = [m for m in records if m.cell.machine in ("", machine)]
    try:
        return ablation(own, layout=table.layout, resolution=table.resolution)
    except AttnbenchError:
        return None  # it measured something else


def _over(point: Point | None) -> str:
    if point is None:
        return ""
    if point.low is None or point.high is None:
        return f"{point.value:.2f}"
    return with_interval(point.value, point.low, point.high, point.verdict)


def _probes(records: Sequence[Measurement]) -> list[Tables]:
    parts = [_probe(profile) for profile in profiles(records)]
    about = (
        "Generated tasks in which every answer has a known place: what is right where one step of attention "
        "reaches it, where several blocks must pass it on, and where nothing can know it. Means over seeds."
    )
    return [Tables("probes", "Probes", about, parts)] if parts else []


def _probe(profile: Profile) -> Part:
    """A probe: its rows with their accuracy, split by how far the answer is, and the reason in words."""
    rows = []
    for row in profile.rows.values():
        mean = row.mean("accuracy")
        right = "failed" if mean is None else f"{mean.value:.1f}"
        if mean is not None and math.isfinite(mean.half_width):
            right += f" ± {mean.half_width:.1f}"
        hops = [
            "" if (at := row.mean(hop)) is None else f"{at.value:.1f} ({row.share(hop):.0f} %)"
            for hop in HOPS
        ]
        rows.append([title_of(row.name), right, str(row.seeds), *hops, why(row, profile)])
    text = (
        f"Guessing is worth {profile.chance:.1f} %, a model without attention {profile.without}; "
        f"{profile.conditions}. In brackets: the share of the questions."
    )
    heads = ["mechanism", "right, %", "seeds", *(WORDS[hop] for hop in HOPS), "why"]
    return Part(profile.title, text, heads, rows)


def findings(table: Table) -> list[str]:
    """What the table says, in sentences that follow from the numbers."""
    said = []
    for setting in SETTINGS:
        points = ratios(table, *setting)
        by_verdict: dict[str, list[Point]] = {}
        for point in sorted(points, key=lambda p: -p.value):
            by_verdict.setdefault(point.verdict, []).append(point)
        if not by_verdict:
            continue
        faster = ", ".join(f"{p.title} ({p.value:.2f})" for p in by_verdict.get("faster", []))
        slower, alike = (len(by_verdict.get(verdict, [])) for verdict in ("slower", "cannot tell"))
        said.append(
            f"{SETTING_TITLES[setting]}: faster than {_baseline(points)}: {faster or 'none'}; "
            f"{slower} slower, {alike} not told apart."
        )
    macs = sorted(values(table, "macs"), key=lambda p: p.value)
    if len(macs) > 1:
        least, most = macs[0], macs[-1]
        said.append(
            f"MACs from {least.value / 1e9:.2f} G ({least.title}) to {most.value / 1e9:.2f} G ({most.title})."
        )
    return said


def _baseline(points: Sequence[Point]) -> str:
    return next((p.title for p in points if p.verdict == "baseline"), "the baseline")


def _speed(table: Table) -> Charts:
    by_setting = {setting: found for setting in SETTINGS if (found := ratios(table, *setting))}
    baseline = _baseline([p for points in by_setting.values() for p in points])
    chart = draw.speed(by_setting, baseline)
    about = (
        "Each mechanism and the baseline took turns in the same blocks; a ratio above 1 is faster. A verdict "
        "is given only where the whole 95 % interval lies beyond the margin."
    )
    return Charts("speed-part", "Speed", about, [chart] if chart else [])


def _price(table: Table) -> Charts:
    found = [
        draw.pareto(cost, quality, 10 * i + j)
        for i, quality in enumerate(pareto.qualities(table))
        for j, cost in enumerate(pareto.costs(table))
    ]
    about = (
        "Accuracy against what it costs. Lines through a point are its 95 % intervals; the dashed line joins "
        "the mechanisms that no other beats in both, named where there is room. Point at any for its name."
    )
    return Charts("price", "Accuracy and its price", about, [chart for chart in found if chart])


def _figure1(records: Sequence[Measurement]) -> Charts:
    chart = draw.figure1(figure_1.bars(rebuilt(get_paper_table("figure1"), records)))
    about = (
        "The paper's headline: throughput of its models over that of Swin-T. The hardware differs, so each "
        "source is taken relative to its own Swin-T."
    )
    return Charts("figure-1", "Figure 1", about, [chart] if chart else [])


def _spent(table: Table, records: Sequence[Measurement]) -> Charts:
    drawn, parts = [], []
    for number, (setting, found) in enumerate(spent(records, table.layout).items()):
        drawn += [spent_part.bars(found, number), spent_part.roofline(found, number)]
        parts.append(Part("Milliseconds by group, and why", f"{setting}.", *spent_part.rows(found)))
    return Charts("time", "Where the time goes", spent_part.ABOUT, [c for c in drawn if c], parts)


def _growth(table: Table, records: Sequence[Measurement]) -> Charts:
    chart = draw.growth(recorded(records, table.layout))
    about = (
        "Multiply-adds of two blocks of the first stage, counted at each resolution; mechanisms that declare "
        "the same power of N, the number of tokens, share a panel. Point at a dot for name and exponent."
    )
    return Charts("growth-part", "Growth", about, [chart] if chart else [])
