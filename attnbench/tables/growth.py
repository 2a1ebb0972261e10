"""The table of ``attnbench complexity``, and the lines of its figure: growth of the cost with resolution."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from attnbench.record import Measurement
from attnbench.tables.points import Line, group_of
from attnbench.tables.render import Column, Table, title_of

if TYPE_CHECKING:
    from attnbench.harness.counting.complexity import Growth
    from attnbench.layouts import Layout

_HOW = (
    "Exponent p of MACs ~ N^p, N tokens, counted on the eager implementation and meta tensors: products of "
    "activations apart from products with weights, each block apart from the other; the largest. Fitted from "
    "{tail} px on; 95 % interval of the slope, whose scatter is rounding, not chance."
)
_WHOLE = "Fitted on maps of the same range that the regions divide; other maps are padded to whole regions."


def growth(found: Sequence["Growth"], layout: "Layout", stage: int, tail: int) -> Table:
    """One row per mechanism and rule of scaling.

    Args:
        found: what was counted, in the order of the rows.
        layout, stage: where; stage 0 is the first.
        tail: pixels from which on the exponents were fitted.
    """
    resolutions = sorted({resolution for item in found for resolution in item.counts})
    ends = f", {resolutions[0]} to {resolutions[-1]} px" if resolutions else ""
    title = (
        f"Growth of the cost with resolution: two blocks of stage {stage + 1} in {layout.name}, "
        f"{layout.dim(stage)} channels, stride {layout.patch_size * 2**stage}{ends}"
    )
    raw = pd.DataFrame(index=pd.Index([_row(item) for item in found], name="mechanism"))
    table = Table(_columns(resolutions), raw, title=title, layout=layout.name)
    table.notes = [_HOW.format(tail=tail)]
    values = [_values(item, resolutions) for item in found]
    for column in table.columns:
        cells = [value[column.name] for value in values]
        raw[column.name] = pd.Series(cells, raw.index, _DTYPES.get(column.name, "Int64"))
    for item in found:
        _remark(table, item)
    return table


_DTYPES = {"rule": "string", "as_declared": "string"} | dict.fromkeys(
    ("declared", "exponent", "low", "high"), "Float64"
)


def _columns(resolutions: Sequence[int]) -> list[Column]:
    shown = {resolutions[0], 224, resolutions[-1]} if resolutions else set()
    return [
        Column("rule", "As the map grows"),
        Column("declared", "Declared", 1, 3),
        Column("exponent", "Exponent", 1, 3),
        Column("low", "from", 1, 3),
        Column("high", "to", 1, 3),
        Column("as_declared", "As declared"),
        Column("cheaper_from_px", "Cheaper than full from (px)"),
        *(Column(f"macs_{r}", f"MACs {r} px (G)", 1e9, 4, csv_only=r not in shown) for r in resolutions),
    ]


def _row(item: "Growth") -> str:
    return f"{item.mechanism}[{item.rule.name}]" if item.rule.name else item.mechanism


def _values(item: "Growth", resolutions: Sequence[int]) -> dict[str, Any]:
    values: dict[str, Any] = {"rule": item.rule.says, "declared": item.declared}
    values |= {"exponent": None, "low": None, "high": None, "as_declared": None}
    values["cheaper_from_px"] = None if item.reason else item.cheaper_from
    values |= {f"macs_{r}": item.counts.get(r) for r in resolutions}
    if item.fit is not None:
        values |= {"exponent": item.fit.exponent, "low": item.fit.low, "high": item.fit.high}
        if item.declared is not None:
            values["as_declared"] = "yes" if item.fit.agrees(item.declared) else "no"
    return values


def _remark(table: Table, item: "Growth") -> None:
    row = _row(item)
    if item.reason:
        table.mark(row, "exponent", f"failed: {item.reason}")
    elif item.fit is None:
        table.mark(row, "exponent", "no multiply-adds: there is nothing to fit")
    if item.fit is not None and item.declared is None:
        table.mark(row, "declared", "the registry declares no power of N")
    if item.fit is not None and item.rule.regions:
        table.mark(row, "exponent", _WHOLE)
        sizes = ", ".join(f"{s} at {r}" for r, s in item.regions.items())
        if len(set(item.regions.values())) > 1:
            table.mark(row, "rule", f"S = (k/2 · N²)^(1/6), rounded, by resolution in px: {sizes}.")
    if not item.reason and item.cheaper_from is None and item.mechanism != "full":
        table.mark(row, "cheaper_from_px", "at no resolution counted")


def lines(found: Sequence["Growth"]) -> list[Line]:
    """What a figure draws of what was counted."""
    return [
        _line(item.mechanism, item.rule.name, item.declared, item.fit and vars(item.fit), item.counts)
        for item in found
    ]


def recorded(records: Sequence[Measurement], layout: str | None) -> list[Line]:
    """The same from records of the metric ``growth``, the newest of each mechanism, in alphabetical order."""
    newest = {
        m.cell.mechanism: m
        for m in records
        if m.name == "growth_exponent" and m.status == "ok" and m.cell.layout == layout
    }
    return [
        _line(
            mechanism,
            rule["rule"],
            rule["declared"],
            rule["interval_95"] and dict(zip(_FIT, (rule["exponent"], *rule["interval_95"]), strict=True)),
            {int(px): macs for px, macs in rule["macs"].items()},
        )
        for mechanism, m in sorted(newest.items())
        for rule in m.details["rules"]
    ]


_FIT = ("exponent", "low", "high")


def _line(mechanism: str, rule: str, declared: float | None, fit: Any, macs: dict[int, int]) -> Line:
    row = f"{mechanism}[{rule}]" if rule else mechanism
    title = title_of(mechanism) + (f", {rule}" if rule else "")
    exponent, low, high = ((fit or {}).get(part) for part in _FIT)
    return Line(row, title, group_of(row), declared, exponent, low, high, macs)
