"""Two sets of records, cell by cell: what became slower, larger or wrong, and under which other conditions.

Counts are compared exactly, memory within 1 % (an allocator rounds), accuracy by the interval of the first
set. Speed is compared by an interval of the ratio of the two sets: of speeds relative to the baseline where
both sets have measured it in the same blocks, which cancels a machine that is faster or slower as a whole,
else of the speeds as they are. No two records are ever averaged. Needs no torch.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from attnbench import metrics, statistics
from attnbench.errors import AttnbenchError
from attnbench.metrics import Value
from attnbench.record import Measurement

_IGNORED = ("commit", "dirty", "clocks", "platform")
"""Facts of an environment that are no condition of a number, or come with one that is."""

Identity = tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """One value in both sets.

    Args:
        cell: what was measured, in words.
        name, unit: of the value.
        before, after: the values; ``None`` where there is none.
        verdict: ``same``, ``faster``, ``slower``, ``cannot tell``, ``more``, ``less``, ``changed``,
            ``higher``, ``lower``, ``fails now``, ``works now``, ``fails in both``, ``only in A`` or ``B``.
        ratio: after over before, with the ends of its interval where it has one.
        basis: what the ratio is of, where that is not the values.
        differs: conditions that are not the same, as ``name: before → after``.
    """

    cell: str
    name: str
    unit: str
    before: float | int | None
    after: float | int | None
    verdict: str
    ratio: tuple[float, float | None, float | None] | None = None
    basis: str = ""
    differs: list[str] = field(default_factory=list)
    regression: bool = False
    """Whether the second set is worse."""


def compare(
    before: Sequence[Measurement], after: Sequence[Measurement], margin: float | None = None
) -> list[Row]:
    """Every cell of either set, in the order of the first.

    Args:
        before, after: measurements, oldest first; of equal cells the newest counts.
        margin: share by which speeds must differ to be told apart; None for what the processes that both
            sets were measured in ask for, see :data:`attnbench.statistics.MARGIN`.

    Raises:
        AttnbenchError: a set has records of several machines and the other of none of them, or no cell is
            in both.
    """
    places = _places(before), _places(after)
    by_place = bool(places[0] & places[1])
    if not by_place and max(map(len, places)) > 1:
        raise AttnbenchError(
            f"the sets were measured on different machines, and one on several ({_listed(places)}); "
            "give the file of one machine for each"
        )
    sides = [{_identity(m, by_place): m for m in side} for side in (before, after)]
    baselines = [_baselines(side) for side in (before, after)]
    rows = []
    for identity in dict.fromkeys([*sides[0], *sides[1]]):
        a, b = sides[0].get(identity), sides[1].get(identity)
        if a is None or b is None:
            rows.append(_alone(a, b))
        else:
            rows.append(_row(a, b, _baseline_of(a, baselines[0]), _baseline_of(b, baselines[1]), margin))
    if all(row.verdict.startswith("only in") for row in rows):
        raise AttnbenchError("the sets have no cell in common; measure both with the same 'attnbench run'")
    return rows


def conditions(rows: Iterable[Row]) -> list[str]:
    """The conditions that differ, each with how many of the rows it concerns."""
    counts: dict[str, int] = {}
    total = 0
    for row in rows:
        if row.before is not None or row.after is not None:
            total += 1
        for text in row.differs:
            counts[text] = counts.get(text, 0) + 1
    return [f"{text} ({count} of {total} values)" for text, count in counts.items()]


def _places(side: Iterable[Measurement]) -> set[str]:
    return {f"{m.cell.machine} {m.cell.device}" for m in side if m.cell.machine}


def _listed(places: tuple[set[str], set[str]]) -> str:
    return "; ".join(", ".join(sorted(of_side)) or "none" for of_side in places)


def _identity(m: Measurement, by_place: bool) -> Identity:
    """What makes two values comparable; the sources, versions and machine are conditions, not identity."""
    cell = m.cell
    parts: list[Any] = [cell.row, cell.layout, cell.metric, cell.mode, cell.precision, cell.resolution]
    parts += [cell.batch_size, cell.impl, cell.seed, cell.preset, cell.regime, cell.dataset]
    parts.append(_value(m).name)
    if by_place:
        parts += [cell.machine, cell.device]
    return tuple(map(str, parts))


def _baselines(side: Iterable[Measurement]) -> dict[str, Measurement]:
    """The baseline's record of each group."""
    return {
        m.details["group"]: m for m in side if m.details.get("verdict") == "baseline" and "group" in m.details
    }


def _baseline_of(m: Measurement, baselines: dict[str, Measurement]) -> Measurement | None:
    found = baselines.get(m.details.get("group", ""))
    return found if found is not None and len(found.samples) == len(m.samples) else None


def _alone(a: Measurement | None, b: Measurement | None) -> Row:
    m = a or b
    assert m is not None
    before, after = (a.value if a else None), (b.value if b else None)
    return Row(_words(m), m.name, m.unit, before, after, "only in A" if a else "only in B")


def _row(
    a: Measurement,
    b: Measurement,
    baseline_a: Measurement | None,
    baseline_b: Measurement | None,
    margin: float | None,
) -> Row:
    differs = list(_differing(a, b))
    start = (_words(b), b.name, b.unit or a.unit, a.value, b.value)
    if a.status != "ok" or b.status != "ok":
        verdicts = {(True, False): "fails now", (False, True): "works now", (False, False): "fails in both"}
        verdict = verdicts[a.status == "ok", b.status == "ok"]
        return Row(*start, verdict, differs=differs, regression=verdict == "fails now")
    if a.value is None or b.value is None:
        changed = a.value != b.value
        return Row(*start, "changed" if changed else "same", differs=differs, regression=changed)
    value = _value(b)
    if value.paired:
        verdict, ratio, basis = _speed(a, b, baseline_a, baseline_b, margin)
        return Row(*start, verdict, ratio, basis, differs, value.is_worse(verdict))
    plain = (b.value / a.value, None, None) if a.value else None
    verdict = value.verdict(float(a.value), float(b.value), a.details.get("interval_95", ()))
    return Row(*start, verdict, plain, differs=differs, regression=value.is_worse(verdict))


def _value(m: Measurement) -> Value:
    """What its metric says of a measurement; one of a plug-in that is not loaded may not change at all."""
    found = metrics.find(m.cell.metric, m.name)
    if found:
        return found[1]
    return Value(m.name, m.unit, m.name, m.name, better="equal", words=("changed", "changed"))


def _speed(
    a: Measurement,
    b: Measurement,
    baseline_a: Measurement | None,
    baseline_b: Measurement | None,
    margin: float | None,
) -> tuple[str, tuple[float, float, float], str]:
    """Verdict, ratio with its interval, and what it is the ratio of."""
    samples, basis = (a.samples or [a.value or 0.0], b.samples or [b.value or 0.0]), ""
    same = baseline_a is not None and baseline_b is not None
    is_baseline = a.details.get("verdict") == "baseline" or b.details.get("verdict") == "baseline"
    if baseline_a is not None and baseline_b is not None and not is_baseline:
        same = baseline_a.cell.mechanism == baseline_b.cell.mechanism
        if same:
            samples = _relative(a, baseline_a), _relative(b, baseline_b)
            basis = f"relative to {baseline_a.cell.mechanism}"
    processes = b.details.get("process_of_block"), a.details.get("process_of_block")
    interval = statistics.unpaired_interval(samples[1], samples[0], *processes)
    verdict = statistics.verdict(interval, margin)
    if is_baseline:  # the machine, not a mechanism: what others are measured by cannot be a regression
        verdict = f"baseline: {verdict}"
    return verdict, (interval.ratio, interval.low, interval.high), basis


def _relative(m: Measurement, baseline: Measurement) -> list[float]:
    return [own / other for own, other in zip(m.samples, baseline.samples, strict=True)]


def _differing(a: Measurement, b: Measurement) -> Iterator[str]:
    """Conditions that are not the same, as far as both records state them."""
    for name, field_name in (("machine", "machine"), ("device", "device"), ("source", "source")):
        yield from _change(name, getattr(a.cell, field_name), getattr(b.cell, field_name))
    for name in ("layout_digest", "recipe", "dataset_digest"):
        yield from _change(name, getattr(a.cell, name), getattr(b.cell, name))
    yield from _change("implementation", a.implementation, b.implementation)
    if a.cell.device == b.cell.device == "meta":
        facts = ["libraries"]  # a count is of the model and the libraries, wherever it was made
    else:
        facts = [k for k in a.environment if k in b.environment and k not in _IGNORED]
    for name in facts:
        before, after = a.environment.get(name, {}), b.environment.get(name, {})
        if isinstance(before, dict) and isinstance(after, dict):
            for key in sorted({*before, *after}):
                yield from _change(key, before.get(key, "none"), after.get(key, "none"))
        elif name not in ("device", "attnbench"):
            yield from _change(name, before, after)


def _change(name: str, before: Any, after: Any) -> Iterator[str]:
    if before != after and before != "" and after != "":
        yield f"{name}: {before} → {after}"


def _words(m: Measurement) -> str:
    cell = m.cell
    size = f"{cell.layout} {cell.resolution} px"
    found = metrics.find(cell.metric, m.name)
    batch = f"batch {cell.batch_size}" if found and found[0].with_batch else ""
    parts = (cell.row, cell.dataset, size, cell.mode, cell.precision, cell.regime, batch)
    return ", ".join(part for part in parts if part)
