"""How a mechanism's options follow the size of the map: without that its growth is not defined.

Swin's cost at 640 pixels depends on whether its window is scaled (MzeroMiko/VMamba#368), and BRA's growth
is N^(4/3) or N² by the rule for S. A mechanism that is not listed here keeps its options at every size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from attnbench.registry import MechanismSpec, Site

Options = Callable[[Site, dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Rule:
    """One way to scale a mechanism.

    Args:
        name: tells the rules of one mechanism apart; empty where there is one only.
        says: what happens as the map grows.
        options: of the module at a site, given those the mechanism has there by default.
        exponent: declared, of N; ``None`` for the registry's.
        regions: the option that cuts the map into so many parts a side, if there is one: a map that it
            does not divide is padded.
    """

    name: str
    says: str
    options: Options = lambda site, defaults: {}
    exponent: float | None = None
    regions: str = ""


def rules(spec: MechanismSpec, site: Site) -> list[Rule]:
    """The rules of a mechanism; ``site`` is where its fixed options are looked up, to name them."""
    if spec.name in _RULES:
        return list(_RULES[spec.name])
    fixed = ", ".join(f"{name} {value}" for name, value in spec.options(site).items())
    return [Rule("", f"{fixed} fixed" if fixed else "nothing to scale")]


def optimal_regions(height: int, width: int, topk: float) -> float:
    """Equation 9 of BiFormer: the S at which bi-level routing costs least; not a whole number in general.

    The paper (Zhu et al., 2023, arXiv:2303.08810, section 3.2) adds up projection, routing and attention of
    H × W tokens of C channels in S × S regions, each of which attends to k of them (eq. 8):

        FLOPs = 3·HW·C² + 2·S⁴·C + 2·k·(HW)²·C / S²

    Split the last term into two equal ones: the mean of 2·S⁴ and twice k·(HW)²/S² is at least their geometric
    mean, where S no longer occurs, and equal to it if the three are equal. Hence S = (k/2 · (HW)²)^(1/6), and
    a cost that grows with N^(4/3) where S follows it, and with N² where S is fixed.
    """
    return (topk / 2 * (height * width) ** 2) ** (1 / 6)


def _equation_9(site: Site, defaults: dict[str, Any]) -> dict[str, Any]:
    """S from equation 9, rounded; none where the stage has full attention instead of routing."""
    topk = defaults.get("topk")
    if topk is None:
        return {}
    regions = max(1, round(optimal_regions(site.height, site.width, topk)))
    return {"num_regions": regions, "topk": min(topk, regions**2)}


def _levels(site: Site, defaults: dict[str, Any]) -> dict[str, Any]:
    """As many levels, each half as fine, as leave a coarsest map of about 7 tokens a side, as at 224 px."""
    return {"levels": max(1, (max(site.height, site.width) // 7).bit_length())}


_RULES: dict[str, tuple[Rule, ...]] = {
    "bra": (
        Rule("S by equation 9", "S by equation 9, k fixed", _equation_9, 4 / 3, "num_regions"),
        Rule("S fixed", "S = 7 and k fixed", exponent=2.0, regions="num_regions"),
    ),
    "shifted_window": (
        Rule("", "window of 7 × 7 fixed"),
        Rule(
            "scaled",
            "window of an eighth of the map",
            lambda site, defaults: {"window_size": max(1, -(-site.height // 8))},
            2.0,
        ),
    ),
    "deformable": (Rule("", "one point per token, in every block", lambda *_: {"alternate": False}),),
    "quadtree": (
        Rule("", "topk fixed, levels added", _levels),
        Rule("two levels", "topk and two levels fixed", lambda site, defaults: {"levels": 2}, 2.0),
    ),
    "local_global": (
        Rule("local", "5 × 5 neighbors, as in stages 1 and 2", lambda *_: {"kind": "local"}, 1.0),
        Rule("global", "all tokens, as in stages 3 and 4", lambda *_: {"kind": "global"}, 2.0),
    ),
}
