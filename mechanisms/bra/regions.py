"""How many regions a side cost least: equation 9 of the paper."""

from typing import Any

from attnbench.registry import Site


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


def follow_equation_9(site: Site, defaults: dict[str, Any]) -> dict[str, Any]:
    """S from equation 9, rounded; none where the stage has full attention instead of routing."""
    topk = defaults.get("topk")
    if topk is None:
        return {}
    regions = max(1, round(optimal_regions(site.height, site.width, topk)))
    return {"num_regions": regions, "topk": min(topk, regions**2)}
