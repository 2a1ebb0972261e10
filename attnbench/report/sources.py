"""What each number of the report rests on: a line for the pointer, and a row of the list of sources."""

from collections.abc import Callable
from dataclasses import dataclass

from attnbench.published import Figure
from attnbench.record import Measurement
from attnbench.tables.conditions import conditions
from attnbench.tables.grid import Cell, Head


@dataclass(frozen=True)
class Source:
    """A row of the list: name of the number, its value, spread or source, conditions, record."""

    anchor: str
    name: str
    value: str
    spread: str
    conditions: str
    record: str


def name_of(head: Head) -> str:
    """``Memory, MiB, infer, FP32``."""
    return ", ".join(level for level in head.levels if level)


def hint(head: Head, cell: Cell) -> str:
    """What is shown beside the pointer: lines of text, the most important first."""
    lines = [f"{name_of(head)}: {cell.text or 'no number'}"]
    if cell.note:
        lines.append(cell.note)
    if cell.record is not None:
        lines += filter(None, [_spread(cell.record), _ran(cell.record), f"record {cell.record.key}"])
    if cell.figure is not None:
        lines.append(
            f"published: {cell.figure.source()}, trained by {cell.figure.trained_by or 'the authors'}"
        )
    return "\n".join(lines)


def source(anchor: str, head: Head, cell: Cell, condition: Callable[[str], str]) -> Source:
    """A row of the list.

    Args:
        anchor: identifier of the row in the page.
        head, cell: the number.
        condition: the name under which a text of conditions is listed once for all.
    """
    if cell.record is not None:
        m = cell.record
        text = conditions(m)
        commit = str(m.environment.get("commit") or "unknown")[:12]
        key = f"{m.key} ({m.name}), made {m.created}, commit {commit}"
        where = condition(text) if text else "a count is the same on every machine"
        shown = cell.note if cell.value is None and cell.note else _value(m, cell)
        spread = "; ".join(filter(None, [_spread(m), _ran(m), _certificate(m)]))
        return Source(anchor, name_of(head), shown, spread, where, key)
    if cell.figure is not None:
        f = cell.figure
        return Source(
            anchor, name_of(head), _printed(f), _trained(f), f.note, f"published.csv, line {f.key}: {f.url}"
        )
    return Source(anchor, name_of(head), cell.text, cell.note, "", "computed from the others")


def _value(m: Measurement, cell: Cell) -> str:
    number = (
        f"{m.value:,}" if isinstance(m.value, int) else f"{m.value:.6g}" if m.value is not None else cell.text
    )
    ratio = f"; {cell.text} times the baseline's speed, {cell.note}" if cell.verdict else ""
    return f"{number} {m.unit}{ratio}"


def _spread(m: Measurement) -> str:
    if ends := m.details.get("interval_95"):
        return f"95 % interval {ends[0]:.4g} to {ends[1]:.4g}"
    if m.samples and m.spread:
        low, high = m.spread.get("q25", 0), m.spread.get("q75", 0)
        return f"{len(m.samples)} samples, quartiles {low:.4g} to {high:.4g}"
    return ""


def _ran(m: Measurement) -> str:
    return f"implementation {m.implementation}" if m.implementation else ""


def _certificate(m: Measurement) -> str:
    return f"certificate {m.certificate}" if m.certificate else ""


def _printed(f: Figure) -> str:
    return f"{f.value} {f.unit}, as printed" if f.value else "cannot be read"


def _trained(f: Figure) -> str:
    parts = [f.source(), f"trained by {f.trained_by}" if f.trained_by else "", f.schedule, f.head, f.hardware]
    return "; ".join(part for part in parts if part)
