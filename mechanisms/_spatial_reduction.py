"""Attention of every token to a spatially reduced copy of the map: PVT's SRA, Twins' GSA."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnbench.implementations import resolve
from attnbench.mechanisms._attend import FastestPlainAttend, attend
from attnbench.mechanisms._cast_once import cast_once
from attnbench.mechanisms._patches import PatchConv
from attnbench.mechanisms._windows import pad_map
from attnbench.registry import Site

POOLED = 7
"""Side of the pooled map of the linear variant."""


class ReducedAttention(FastestPlainAttend, nn.Module):
    """Queries from all N tokens, keys and values from N_k tokens of a smaller map.

    The smaller map is LayerNorm(strided r × r convolution of x), or, ``linear``,
    GELU(LayerNorm(1 × 1 convolution of x average-pooled to 7 × 7)). With r = 1 it is x itself.

    A map that r does not divide: ``masked`` gives the convolution zero padding at the bottom and right, so
    that every token takes part and N_k = ceil(H/r)·ceil(W/r), every one of them with real tokens under it;
    ``official`` drops trailing rows and columns from the keys, N_k = floor(H/r)·floor(W/r).

    Cost: 2·N·C² + 2·N_k·C² (projection) + r²·N_k·C² (sampling; 49·C² if linear, 0 if r = 1)
    + 2·N·N_k·C (attention) MACs.

    Args:
        site: place in the backbone; gives ``dim`` and ``num_heads``.
        sr_ratio: reduction r of each side; without effect if ``linear``.
        linear: pool to a fixed 7 × 7 map.
        qkv_bias: learn a bias in the query, key and value projections.
        padding: ``masked`` or ``official``, see above.
        impl: ``eager`` or ``sdpa``.

    Raises:
        ValueError: ``sr_ratio`` is not positive, or ``padding`` is unknown.
    """

    def __init__(
        self,
        site: Site,
        *,
        sr_ratio: int = 1,
        linear: bool = False,
        qkv_bias: bool = True,
        padding: str = "masked",
        impl: str = "eager",
    ) -> None:
        super().__init__()
        if sr_ratio < 1:
            raise ValueError(f"sr_ratio must be positive, got {sr_ratio}")
        if padding not in ("masked", "official"):
            raise ValueError(f"padding must be 'masked' or 'official', got {padding!r}")
        self.dim, self.num_heads, self.head_dim = site.dim, site.num_heads, site.head_dim
        self.linear, self.padding, self.impl = linear, padding, impl
        self.ratio = 1 if linear else sr_ratio
        self.q = nn.Linear(self.dim, self.dim, bias=qkv_bias)
        self.kv = nn.Linear(self.dim, 2 * self.dim, bias=qkv_bias)
        self.sr: PatchConv | None = None
        self.norm: nn.LayerNorm | None = None
        if linear or self.ratio > 1:
            self.sr = PatchConv(self.dim, self.dim, self.ratio)
            self.norm = nn.LayerNorm(self.dim)
        self.proj = nn.Linear(self.dim, self.dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        x = cast_once(x)
        (B, H, W, _), heads, y = x.shape, self.num_heads, self.reduce(x)
        q = self.q(x).reshape(B, H * W, heads, -1).transpose(1, 2)  # (B, heads, N, d)
        kv = self.kv(y).reshape(B, y.shape[1] * y.shape[2], 2, heads, -1)
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, N_k, d)
        out = attend(q, k, v, scale=self.head_dim**-0.5, impl=resolve(self, q, H, W))
        return self.proj(out.transpose(1, 2).reshape(B, H, W, -1))

    def reduce(self, x: Tensor) -> Tensor:
        """The smaller map that keys and values are taken from, (B, H_k, W_k, C)."""
        if self.sr is None or self.norm is None:
            return x
        self._reduced(x.shape[1], x.shape[2])
        if not self.linear and self.padding == "masked":
            x = pad_map(x, (self.ratio, self.ratio))
        if self.linear:
            x = F.adaptive_avg_pool2d(x.permute(0, 3, 1, 2), POOLED).permute(0, 2, 3, 1)
        x = self.norm(self.sr(x))
        return F.gelu(x) if self.linear else x

    def macs(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds per image on a height × width map, by phase."""
        rows, columns = self._reduced(height, width)
        n, keys, c = height * width, rows * columns, self.dim
        cost = {"projection": 2 * n * c**2 + 2 * keys * c**2, "attention": 2 * n * keys * c}
        if self.sr is not None:
            cost["sampling"] = self.ratio**2 * keys * c**2
        return cost

    def parameter_count(self) -> int:
        """Learned parameters: 4·C² + C, 3·C for the qkv bias, r²·C² + 3·C for convolution and norm."""
        c = self.dim
        reduction = self.ratio**2 * c**2 + 3 * c if self.sr is not None else 0
        return 4 * c**2 + c + (3 * c if self.q.bias is not None else 0) + reduction

    def support(self, height: int, width: int) -> Tensor:
        """(N, N) bool: all; with ``padding="official"`` the tokens that are in a key and the query."""
        rows, columns = self._reduced(height, width)
        n = height * width
        if self.linear or self.padding == "masked":
            return torch.ones(n, n, dtype=torch.bool)
        used_y = torch.arange(height) < rows * self.ratio
        used_x = torch.arange(width) < columns * self.ratio
        used = (used_y[:, None] & used_x[None, :]).flatten()
        # With one key the softmax is 1 whatever the query, which then has no say.
        return used[None, :] | (torch.eye(n, dtype=torch.bool) & (rows * columns > 1))

    def _reduced(self, height: int, width: int) -> tuple[int, int]:
        """Size of the smaller map."""
        if self.linear:
            return POOLED, POOLED
        if self.padding == "masked":
            return -(-height // self.ratio), -(-width // self.ratio)
        if min(height, width) < self.ratio:
            raise ValueError(
                f"padding='official' needs a map of at least sr_ratio {self.ratio} tokens a side, "
                f"got {height} x {width}; padding='masked' takes any"
            )
        return height // self.ratio, width // self.ratio
