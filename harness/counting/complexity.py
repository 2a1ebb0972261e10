"""How a mechanism's cost grows with the map: counted at many resolutions, and the exponent fitted.

Counts are torch's, on the eager implementation and meta tensors, of two consecutive blocks of a stage (so
that mechanisms that alternate do), built for each resolution. The projections grow with N whatever the
attention does, and would pull a fit towards 1; so products of activations with activations (``bmm``) are
told apart from products with weights, and one block from the other. Each part is fitted alone,
log MACs = p·log N + c; the asymptotic exponent is the largest.

Regions that do not divide a map are padded, which at S of equation 9 adds up to a third to small maps; the
fit of such a mechanism reads maps that its regions divide, of the same range.

The interval is Student's for the slope, at 95 %. The scatter is not chance but rounding (padding to whole
windows, S rounded to a whole number), so it tells how well a power law describes the counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from attnbench.errors import AttnbenchError
from attnbench.harness.counting import macs
from attnbench.harness.counting.scaling import rules
from attnbench.layouts import Layout
from attnbench.registry import MechanismSpec, Site, get
from attnbench.scaling_rules import Rule

RESOLUTIONS = (56, 112, 224, 336, 448, 512, 640, 768, 896, 1024, 1280, 1536, 1792, 2048)
TAIL = 512
"""Pixels from which on the fit reads; below, terms of lower order still weigh."""
_TOLERANCE = 0.02
_ACTIVATIONS = ("bmm", "baddbmm")


@dataclass(frozen=True)
class Fit:
    """A power law: its exponent, and the ends of the 95 % interval."""

    exponent: float
    low: float
    high: float

    def agrees(self, declared: float) -> bool:
        """Whether a declared exponent lies in the interval, or within 0.02 of the exponent."""
        return self.low <= declared <= self.high or abs(self.exponent - declared) <= _TOLERANCE


@dataclass
class Growth:
    """The cost of one mechanism under one rule.

    Args:
        counts: MACs of the two blocks by resolution in pixels.
        regions: S by resolution, for a mechanism of regions.
        fit: ``None`` if nothing was multiplied, or ``reason`` says why.
        cheaper_from: pixels from which on it costs less than full attention; ``None`` for never.
    """

    mechanism: str
    rule: Rule
    declared: float | None
    counts: dict[int, int] = field(default_factory=dict)
    regions: dict[int, int] = field(default_factory=dict)
    fit: Fit | None = None
    cheaper_from: int | None = None
    reason: str = ""


class Counter:
    """Counts pairs of blocks in one stage of a layout, on square maps."""

    def __init__(self, layout: Layout, stage: int) -> None:
        self.layout, self.stage = layout, stage
        self.step = layout.patch_size * 2**stage
        self._known: dict[tuple[str, str, int], list[int]] = {}

    def side(self, resolution: int) -> int:
        """Tokens a side of the stage's map."""
        return self.layout.map_sizes(resolution, resolution)[self.stage][0]

    def sites(self, side: int) -> list[Site]:
        """The first two places in the stage, with a map of side × side tokens."""
        dim = self.layout.dim(self.stage)
        return [Site(dim, dim // self.layout.head_dim, side, side, self.stage, block) for block in (0, 1)]

    def parts(self, spec: MechanismSpec, rule: Rule, side: int) -> list[int]:
        """MACs by block: products of activations, products with weights, and so on for the next.

        Raises:
            UncountedError: a count is a lower bound.
        """
        key = (spec.name, rule.name, side)
        if key not in self._known:
            parts = (_parts(spec, site, self.options(spec, rule, site)) for site in self.sites(side))
            self._known[key] = [part for pair in parts for part in pair]
        return self._known[key]

    def options(self, spec: MechanismSpec, rule: Rule, site: Site) -> dict[str, Any]:
        """Options of the mechanism at a site: its own, the layout's, those of the rule."""
        defaults = self.layout.defaults.get(spec.name, {})
        return {**defaults, **rule.options(site, spec.options(site, defaults))}

    def total(self, spec: MechanismSpec, rule: Rule, side: int) -> int:
        """MACs of the two blocks."""
        return sum(self.parts(spec, rule, side))

    def full(self, side: int) -> int:
        """MACs of two blocks of full attention."""
        return self.total(get("full"), Rule("", ""), side)


def measure(counter: Counter, mechanism: str, resolutions: Sequence[int] = RESOLUTIONS) -> list[Growth]:
    """The growth of a mechanism under each of its rules; one that fails carries the reason.

    Args:
        counter: gives layout and stage.
        mechanism: name.
        resolutions: in pixels, ascending, three or more.
    """
    spec = get(mechanism)
    at_home = counter.sites(counter.side(counter.layout.img_size))[0]
    found = []
    for rule in rules(spec, at_home):
        declared = exponent_of(spec.facts.complexity) if rule.exponent is None else rule.exponent
        growth = Growth(mechanism, rule, declared)
        try:
            _count(counter, spec, growth, resolutions)
        except Exception as error:  # anything may be wrong with a file from elsewhere
            prefix = "" if isinstance(error, AttnbenchError) else f"{type(error).__name__}: "
            growth.reason = f"{prefix}{error}".splitlines()[0]
        found.append(growth)
    return found


def exponent_of(complexity: str) -> float | None:
    """The power of N in the registry's ``O(N^4/3)``; ``None`` if it declares none of that form."""
    if complexity in ("O(1)", "O(N)"):
        return float(complexity == "O(N)")
    if not (complexity.startswith("O(N^") and complexity.endswith(")")):
        return None
    above, _, below = complexity[4:-1].partition("/")
    try:
        return float(above) / float(below or 1)
    except ValueError:
        return None


def tail(resolutions: Sequence[int]) -> list[int]:
    """Those that exponents are fitted to: the large ones if there are three of them, or all."""
    large = [resolution for resolution in resolutions if resolution >= TAIL]
    return large if len(large) >= 3 else list(resolutions)


def fit(tokens: Sequence[float], costs: Sequence[float]) -> Fit:
    """The power law through costs of three or more maps, none of them zero."""
    from scipy import stats

    found = stats.linregress(np.log(tokens), np.log(costs))
    half = float(stats.t.ppf(0.975, len(tokens) - 2) * found.stderr)
    return Fit(float(found.slope), float(found.slope) - half, float(found.slope) + half)


def _parts(spec: MechanismSpec, site: Site, options: dict[str, Any]) -> tuple[int, int]:
    """MACs of one block: products of activations, products with weights."""
    with torch.device("meta"):
        module = spec.build(site, impl="eager", **options).eval()
        image = torch.empty(1, site.height, site.width, site.dim)
    count = macs.count_forward(module, image)
    if count.uncounted:
        raise macs.UncountedError(f"no formula is known for {', '.join(count.uncounted)}")
    mixing = sum(count.by_operator.get(name, 0) for name in _ACTIVATIONS)
    return mixing, count.macs - mixing


def _count(counter: Counter, spec: MechanismSpec, growth: Growth, resolutions: Sequence[int]) -> None:
    for resolution in resolutions:
        side = counter.side(resolution)
        growth.counts[resolution] = counter.total(spec, growth.rule, side)
        if growth.rule.regions:
            growth.regions[resolution] = _regions(counter, spec, growth.rule, side)
    growth.fit = _asymptotic(counter, spec, growth.rule, resolutions)
    growth.cheaper_from = _cheaper_from(counter, spec, growth.rule, resolutions[-1])


def _regions(counter: Counter, spec: MechanismSpec, rule: Rule, side: int) -> int:
    """Parts a side that a rule cuts a map into."""
    site = counter.sites(side)[0]
    return int(spec.options(site, counter.options(spec, rule, site))[rule.regions])


def _asymptotic(counter: Counter, spec: MechanismSpec, rule: Rule, resolutions: Sequence[int]) -> Fit | None:
    """The largest exponent among the parts, over the tail."""
    sides = [counter.side(r) for r in tail(resolutions)]
    if rule.regions:
        sides = _whole(counter, spec, rule, sides[0], sides[-1]) or sides
    costs = zip(*(counter.parts(spec, rule, side) for side in sides), strict=True)
    fits = [fit([side**2 for side in sides], part) for part in costs if all(part)]
    return max(fits, key=lambda found: found.exponent, default=None)


def _whole(counter: Counter, spec: MechanismSpec, rule: Rule, first: int, last: int) -> list[int]:
    """About ten sides of maps that the rule's regions divide, so that no padding is counted.

    From ``first`` on if that spans an octave, from the smallest map otherwise.
    """
    sides = [side for side in range(2, last + 1) if side % _regions(counter, spec, rule, side) == 0]
    large = [side for side in sides if side >= first]
    sides = large if len(large) >= 3 and large[-1] >= 2 * large[0] else sides
    return sides[:: -(-len(sides) // 12)] if len(sides) >= 3 else []


def _cheaper_from(counter: Counter, spec: MechanismSpec, rule: Rule, largest: int) -> int | None:
    """Pixels from which on it costs less than full attention; ``None`` if it does not at the largest.

    Each map is tried up to 32 tokens a side; beyond, the place is found by halving.
    """

    def cheaper(side: int) -> bool:
        return counter.total(spec, rule, side) < counter.full(side)

    high = counter.side(largest)
    if not cheaper(high):
        return None
    low = max((side for side in range(1, min(high, 32) + 1) if not cheaper(side)), default=0)
    if low == min(high, 32):
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if cheaper(middle) else (middle, high)
    return (low + 1) * counter.step
