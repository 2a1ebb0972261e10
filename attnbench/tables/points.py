"""What figures and the report show of a table: points with their intervals. Needs no torch.

Both draw from here, so that a figure for a paper and a chart of the report cannot say different things.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from attnbench import metrics, registry
from attnbench.baselines import is_baseline
from attnbench.errors import AttnbenchError
from attnbench.record import Measurement
from attnbench.tables.render import Table, title_of
from attnbench.tables.speed import WITHHELD

SETTINGS = (("infer", "fp32"), ("infer", "amp"), ("train", "fp32"), ("train", "amp"))
"""Mode and precision of the four that every table has."""
SETTING_TITLES = {
    ("infer", "fp32"): "Inference, FP32",
    ("infer", "amp"): "Inference, AMP",
    ("train", "fp32"): "Training, FP32",
    ("train", "amp"): "Training, AMP",
}
GROUPS = {
    "static": "fixed pattern",
    "image": "chosen by the image",
    "query": "chosen by the query",
    "baseline": "baseline",
    "": "not declared",
}
"""Groups that mechanisms are coloured by: what decides where a token attends."""


@dataclass(frozen=True)
class Point:
    """One number of one row; ``low`` and ``high`` are its 95 % interval, where it has one."""

    row: str
    title: str
    group: str
    value: float
    low: float | None = None
    high: float | None = None
    verdict: str = ""

    def over(self, by: float) -> "Point":
        """The point in another unit."""
        low, high = (None if end is None else end / by for end in (self.low, self.high))
        return replace(self, value=self.value / by, low=low, high=high)


@dataclass(frozen=True)
class Line:
    """How the cost of one mechanism grows, under one rule of how its options follow the map.

    Args:
        row: the mechanism, and the rule in brackets where it has several.
        declared: exponent of the number of tokens that the mechanism declares.
        exponent, low, high: fitted, with the ends of its 95 % interval; ``None`` without multiply-adds.
        macs: multiply-adds by resolution in pixels.
    """

    row: str
    title: str
    group: str
    declared: float | None
    exponent: float | None
    low: float | None
    high: float | None
    macs: dict[int, int]


def fullest_layout(records: Sequence[Measurement]) -> str | None:
    """The layout that most mechanisms were measured in, the newest of those: what a report is about."""
    rows: dict[str, set[str]] = {}
    for m in reversed(records):
        if m.cell.metric in metrics.names() and not metrics.get(m.cell.metric).own_layout:
            rows.setdefault(m.cell.layout, set()).add(m.cell.row)
    return max(rows, key=lambda layout: len(rows[layout]), default=None)


def group_of(row: str) -> str:
    """The key of :data:`GROUPS` that a row belongs to."""
    name = row.partition("[")[0]
    if is_baseline(name):
        return "baseline"
    try:
        facts = registry.get(name).facts
    except AttnbenchError:
        return ""  # measured with a plugin that is not loaded now
    return facts.pattern if facts.pattern in GROUPS else ""


def ratios(table: Table, mode: str, precision: str) -> list[Point]:
    """Speed over the baseline's, of the rows that have it; the baseline's own is 1."""
    found = []
    for row, m in _measured(table, "throughput", mode, precision):
        if (ratio := m.details.get("ratio")) is None:
            continue
        own = m.details.get("verdict") == "baseline"
        low, high = (None, None) if own else (m.details.get("ratio_low"), m.details.get("ratio_high"))
        verdict = "baseline" if own else str(m.details.get("verdict", ""))
        found.append(_point(table, row, ratio, low, high, verdict))
    return found


def values(table: Table, name: str, mode: str = "", precision: str = "") -> list[Point]:
    """A measured value, as recorded, of the rows that have it.

    Args:
        name: of the value in a record: ``parameters``, ``macs``, ``peak_memory``, ``throughput``, ``top1``.
        mode, precision: of the cell; empty for any.
    """
    found = []
    for row, m in _measured(table, name, mode, precision):
        low, high = m.details.get("interval_95") or (m.spread.get("q25"), m.spread.get("q75"))
        found.append(_point(table, row, float(m.value or 0), low, high))
    return found


def published(table: Table, metric: str) -> list[Point]:
    """Published numbers of a metric (``top1``, ``miou``), by row."""
    return [
        _point(table, row, figure.number)
        for (row, name), figure in table.figures.items()
        if name == f"published_{metric}" and figure.number is not None
    ]


def probes(table: Table) -> list[tuple[str, list[Point]]]:
    """Title and accuracies of each probe that the table has a column for, with intervals over seeds."""
    found = []
    for column in table.columns:
        half_width = f"{column.name}_half_width"
        if half_width not in table.raw:
            continue
        points = []
        for row in map(str, table.raw.index):
            value, half = table.value(row, column.name), table.value(row, half_width)
            if value is not None:
                ends = (None, None) if half is None else (max(0.0, value - half), min(100.0, value + half))
                points.append(_point(table, row, float(value), *ends))
        found.append((column.heading.removesuffix(" (%)"), points))
    return found


def front(points: Sequence[tuple[float, float]], *, less_is_better: bool) -> list[int]:
    """Places of the points that no other beats in both: cheaper (or faster) and better.

    Args:
        points: cost or speed, and quality, of which more is always better.
        less_is_better: whether the first is a cost.

    Returns:
        Indices, by the first coordinate in ascending order.
    """
    sign = 1 if less_is_better else -1
    order = sorted(range(len(points)), key=lambda i: (sign * points[i][0], -points[i][1]))
    kept: list[int] = []
    for i in order:
        if not kept or points[i][1] > points[kept[-1]][1]:
            kept.append(i)
    return sorted(kept, key=lambda i: points[i][0])


def _measured(table: Table, name: str, mode: str, precision: str) -> list[tuple[str, Measurement]]:
    """Rows of the table, in its order, with their measurement of that name and setting."""
    by_row = {
        row: m
        for (row, _), m in table.measured.items()
        if m.name == name
        and m.status == "ok"
        and m.value is not None
        and not m.cell.regime
        and WITHHELD not in m.details
        and (not mode or m.cell.mode == mode)
        and (not precision or m.cell.precision == precision)
    }
    return [(str(row), by_row[str(row)]) for row in table.raw.index if str(row) in by_row]


def _point(
    table: Table, row: str, value: float, low: object = None, high: object = None, verdict: str = ""
) -> Point:
    start, end = (float(x) if isinstance(x, (int, float)) else None for x in (low, high))
    return Point(row, table.titles.get(row) or title_of(row), group_of(row), value, start, end, verdict)
