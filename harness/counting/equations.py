"""Equations 8 and 9 of the BiFormer paper: what bi-level routing costs, and the S that costs least.

Source: Zhu et al., 2023, arXiv:2303.08810, section 3.2. For a map of H × W tokens of C channels in S × S
regions, each of which attends to k of them, the paper adds up projection, routing and attention (eq. 8):

    FLOPs = 3·HW·C² + 2·S⁴·C + 2·k·(HW)²·C / S²

Split the last term into two equal ones: the mean of 2·S⁴ and twice k·(HW)²/S² is at least their geometric
mean, where S no longer occurs, and equal to it if the three are equal. Hence the minimum

    3·HW·C² + 3·(2·k²)^(1/3)·(HW)^(4/3)·C    at    S = (k/2 · (HW)²)^(1/6)        (eq. 9)

so that the cost grows with N^(4/3) where S follows equation 9, and with N² where S is fixed.

The paper's terms are not of one kind: projection and attention are multiply-adds, routing is two operations
per multiply-add, and the output projection is left out. :func:`macs` is what a counter finds, whose minimum
(:func:`best_regions`) lies at a slightly larger S and grows with the same power.
"""


def flops(height: int, width: int, dim: int, topk: float, regions: float) -> float:
    """Equation 8: the paper's cost of one module with S = ``regions`` a side."""
    tokens = height * width
    return 3 * tokens * dim**2 + 2 * regions**4 * dim + 2 * topk * tokens**2 * dim / regions**2


def optimal_regions(height: int, width: int, topk: float) -> float:
    """Equation 9: the S at which equation 8 is least; not a whole number in general."""
    return (topk / 2 * (height * width) ** 2) ** (1 / 6)


def minimal_flops(height: int, width: int, dim: int, topk: float) -> float:
    """Equation 8 at the S of equation 9."""
    tokens = height * width
    return 3 * tokens * dim**2 + 3 * (2 * topk**2) ** (1 / 3) * tokens ** (4 / 3) * dim


def macs(height: int, width: int, dim: int, topk: float, regions: float) -> float:
    """Multiply-adds, less those of LePE: 4·N·C² + S⁴·C + 2·k·N²·C / S², N = H·W; S divides H and W."""
    tokens = height * width
    return 4 * tokens * dim**2 + regions**4 * dim + 2 * topk * tokens**2 * dim / regions**2


def best_regions(height: int, width: int, topk: float) -> float:
    """The S at which :func:`macs` is least: (k·N²)^(1/6), 2^(1/6) times that of equation 9."""
    return (topk * (height * width) ** 2) ** (1 / 6)


def minimal_macs(height: int, width: int, dim: int, topk: float) -> float:
    """:func:`macs` at the S of :func:`best_regions`: 4·N·C² + 3·k^(2/3)·N^(4/3)·C."""
    return macs(height, width, dim, topk, best_regions(height, width, topk))
