"""Pooling: each token becomes the mean of its neighbours minus itself. A floor without attention.

Paper: Yu et al., 2022, "MetaFormer Is Actually What You Need for Vision", arXiv:2111.11418.
Code: written from the paper; the official token mixer also subtracts its input, since the block adds it back.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnbench.mechanisms._local import neighbours
from attnbench.registry import Site, register_mechanism


@register_mechanism(
    "pooling",
    title="Pooling",
    paper="arXiv:2111.11418",
    year=2022,
    pattern="static",
    complexity="O(N)",
)
class Pooling(nn.Module):
    """Average over the real tokens of a k × k square around each token, minus the token.

    Cost: no multiply-adds, no parameters. Places beyond the border are left out of the average.

    Args:
        site: place in the backbone; not used.
        pool_size: odd k.

    Raises:
        ValueError: ``pool_size`` is even or not positive.
    """

    def __init__(self, site: Site, *, pool_size: int = 3) -> None:
        super().__init__()
        if pool_size < 1 or pool_size % 2 == 0:
            raise ValueError(f"pool_size must be odd and positive, got {pool_size}")
        self.pool_size = pool_size

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        k = self.pool_size
        mean = F.avg_pool2d(x.permute(0, 3, 1, 2), k, stride=1, padding=k // 2, count_include_pad=False)
        return mean.permute(0, 2, 3, 1) - x

    def macs(self, height: int, width: int) -> dict[str, int]:
        """None: additions and one division a token are not counted."""
        return {}

    def parameter_count(self) -> int:
        """None."""
        return 0

    def support(self, height: int, width: int) -> Tensor:
        """(N, N) bool: tokens within a k × k square; a token that is its own mean cancels out."""
        near = neighbours(height, width, self.pool_size)
        alone = near.sum(1) == 1
        return near & ~torch.diag(alone)
