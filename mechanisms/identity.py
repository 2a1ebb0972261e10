"""Identity: no token mixing at all. A floor: what the rest of the layout does and costs.

Paper: the token mixer of IdentityFormer in Yu et al., 2022, "MetaFormer Baselines for Vision",
arXiv:2210.13452.
Code: none needed.
"""

import torch
from torch import Tensor, nn

from attnbench.registry import Site, register_mechanism


@register_mechanism(
    "identity",
    title="Identity",
    paper="arXiv:2210.13452",
    year=2022,
    pattern="static",
    complexity="O(1)",
)
class Identity(nn.Module):
    """Return the map as it is.

    Cost: no multiply-adds, no parameters.

    Args:
        site: place in the backbone; not used.
    """

    def __init__(self, site: Site) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to itself."""
        return x

    def macs(self, height: int, width: int) -> dict[str, int]:
        """None."""
        return {}

    def parameter_count(self) -> int:
        """None."""
        return 0

    def support(self, height: int, width: int) -> Tensor:
        """(N, N) bool: each token depends on itself only."""
        return torch.eye(height * width, dtype=torch.bool)
