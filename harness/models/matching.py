"""Equal budgets: options under which a mechanism costs as much as another, in MACs or in parameters.

A comparison at unequal cost says little. What may be turned is found by trying: the whole-number options
that change the cost (k, S, the window); for parameters also the ratio of the MLPs, which any mechanism has.
"""

import inspect
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch

from attnbench.errors import AttnbenchError, UnknownNameError
from attnbench.harness.counting.parameters import measure as count_parameters
from attnbench.harness.models.backbone import create_model
from attnbench.layouts import Layout
from attnbench.registry import MechanismSpec, Site

MOST = 64
"""Largest value of an option that is tried."""


@dataclass(frozen=True)
class Match:
    """Options that come nearest to a target: what was turned, the cost reached, and the target."""

    options: dict[str, Any]
    reached: int
    target: int

    @property
    def gap(self) -> float:
        """Relative distance from the target; positive where more is spent."""
        return self.reached / self.target - 1


def match(
    spec: MechanismSpec, layout: Layout, target: int, by: str, tolerance: float, knob: str = ""
) -> Match:
    """Options under which a mechanism meets a target within the tolerance, as near to its own as can be.

    Args:
        spec: the mechanism whose options are turned.
        layout: where it is; its nominal image decides the MACs.
        target: multiply-adds per image, or parameters, of the whole model.
        by: ``macs`` or ``parameters``.
        tolerance: relative.
        knob: the option to turn; empty to try each.

    Returns:
        The match; the nearest there is if none is within the tolerance.

    Raises:
        AttnbenchError: no option changes the cost, or the mechanism has no formula.
    """
    knobs = list(_knobs(spec, layout, by))
    if by == "parameters":
        knobs.append("mlp_ratio")
    if knob and knob not in knobs:
        raise UnknownNameError(f"option of {spec.name} that changes its {by}", knob, knobs)
    found = [_turn(spec, layout, target, by, tolerance, name) for name in ([knob] if knob else knobs)]
    if not found:
        raise AttnbenchError(f"no whole-number option of {spec.name} changes its {by}")
    return next((m for m in found if abs(m.gap) <= tolerance), min(found, key=lambda m: abs(m.gap)))


def cost(layout: Layout, mechanism: str, by: str, **options: Any) -> int:
    """Multiply-adds per nominal image, or parameters, of a whole model.

    Raises:
        AttnbenchError: the mechanism has no formula.
    """
    with torch.device("meta"):
        model = create_model(layout.name, mechanism, impl="eager", **options)
    if by == "parameters":
        return count_parameters(model)
    return sum(model.macs(layout.img_size, layout.img_size).values())


def _knobs(spec: MechanismSpec, layout: Layout, by: str) -> Iterator[str]:
    """Whole-number options that change the cost of some site."""
    sites = [site for site in layout.sites(layout.img_size, layout.img_size) if site.block < 2]
    for name, parameter in inspect.signature(spec.load()).parameters.items():
        default = spec.facts.per_stage.get(name, parameter.default)
        values = default if isinstance(default, (tuple, list)) else (default,)
        if any(isinstance(value, bool) or not isinstance(value, (int, type(None))) for value in values):
            continue
        if all(value is None for value in values):
            continue
        for site in sites:
            own = spec.options(site).get(name, parameter.default)
            costs = {_at_site(spec, site, by, name, value) for value in (own, 1, 2, 3)} - {None}
            if own is not None and len(costs) > 1:
                yield name
                break


def _at_site(spec: MechanismSpec, site: Site, by: str, name: str, value: int | None) -> int | None:
    """Cost of one module with an option set; ``None`` where it cannot be built so."""
    try:
        with torch.device("meta"):
            module: Any = spec.build(site, "eager", **{name: value})
        if by == "parameters":
            return count_parameters(module)
        return sum(module.macs(site.height, site.width).values())
    except (AttnbenchError, ValueError):
        return None


def _turn(spec: MechanismSpec, layout: Layout, target: int, by: str, tolerance: float, name: str) -> Match:
    if name == "mlp_ratio":
        return _turn_mlp(spec, layout, target, by)
    sites = list(layout.sites(layout.img_size, layout.img_size))
    fallback = inspect.signature(spec.load()).parameters[name].default
    own = [
        spec.options(replace(sites[0], stage=stage)).get(name, fallback)
        for stage in range(len(layout.depths))
    ]
    tables = [_stage_costs(spec, sites, stage, by, name, own[stage]) for stage in range(len(own))]
    rest = cost(layout, spec.name, by) - sum(table[value] for table, value in zip(tables, own, strict=True))
    best = min(
        _choices(tables, own),
        key=lambda values: _badness(values, own, tables, target - rest, target, tolerance),
    )
    value: Any = best[0] if len(set(best)) == 1 else list(best)
    reached = rest + sum(table[v] for table, v in zip(tables, best, strict=True))
    return Match({name: value}, reached, target)


def _choices(tables: Sequence[dict[Any, int]], own: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    """One value for all stages where they share one; and, with fewer values a stage, one for each."""
    if len(set(own)) == 1:
        for value in set.intersection(*(set(table) for table in tables)):
            yield (value,) * len(own)
    yield from product(*(_thinned(table, value) for table, value in zip(tables, own, strict=True)))


def _thinned(table: dict[Any, int], own: Any) -> list[Any]:
    """At most some twenty values of a stage, evenly spread, its own among them: products stay small."""
    values = list(table)
    return sorted({*values[:: max(1, len(values) // 20)], own}, key=str)


def _badness(
    values: Sequence[Any],
    own: Sequence[Any],
    tables: Sequence[dict[Any, int]],
    wanted: int,
    target: int,
    tolerance: float,
) -> tuple[float, float]:
    """First the distance from the target beyond the tolerance, then the distance from the own options."""
    gap = abs(sum(table[v] for table, v in zip(tables, values, strict=True)) - wanted) / target
    moved = sum(abs(math.log(v / o)) for v, o in zip(values, own, strict=True) if o)
    return max(gap - tolerance, 0.0), moved


def _stage_costs(
    spec: MechanismSpec, sites: Sequence[Site], stage: int, by: str, name: str, own: Any
) -> dict[Any, int]:
    """Cost of a stage's attention by the option's value; a stage that leaves the option out keeps that."""
    here = [site for site in sites if site.stage == stage]
    table = {}
    for value in [own] if own is None else sorted({own, *range(1, MOST + 1)}):
        costs = {site.block % 2: _at_site(spec, site, by, name, value) for site in here[:2]}
        found = [costs[site.block % 2] for site in here]
        if all(found):
            table[value] = sum(c for c in found if c)
    return table


def _turn_mlp(spec: MechanismSpec, layout: Layout, target: int, by: str) -> Match:
    low, high = 0.5, 8.0
    for _ in range(30):  # parameters grow with the ratio
        middle = (low + high) / 2
        low, high = (
            (low, middle) if cost(layout, spec.name, by, mlp_ratio=middle) > target else (middle, high)
        )
    ratio = min(
        (round(r, 6) for r in (low, high)),
        key=lambda r: abs(cost(layout, spec.name, by, mlp_ratio=r) - target),
    )
    return Match({"mlp_ratio": ratio}, cost(layout, spec.name, by, mlp_ratio=ratio), target)
