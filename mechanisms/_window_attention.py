"""Attention inside the windows of a map, or over its grids; padding is never attended to."""

from collections import Counter

import torch
from torch import Tensor
from torch.nn import functional as F

from attnbench.mechanisms._attend import attend_stacked
from attnbench.mechanisms._windows import padding, same_label


def window_attention(
    qkv: Tensor,
    window: tuple[int, int],
    *,
    scale: float,
    bias: Tensor | None = None,
    grid: bool = False,
    impl: str = "eager",
) -> Tensor:
    """Let the tokens of each h × w window, or of each h × w grid, attend to one another.

    A map that the window does not divide is padded at the bottom and right; padding is masked as a key
    and cropped as a query.

    Args:
        qkv: (B, H, W, 3, heads, d), in the order q, k, v; any strides.
        window: (h, w), L = h·w tokens.
        scale: factor on the logits.
        bias: (heads, L, L), added to the logits of every window.
        grid: group tokens that lie ceil(H/h) rows and ceil(W/w) columns apart, instead of neighbours.
        impl: ``eager``, ``sdpa``, or ``auto`` for the faster.

    Returns:
        (B, H, W, heads·d).
    """
    B, H, W, _, heads, d = qkv.shape
    h, w = window
    bottom, right = padding(H, h), padding(W, w)
    bias = None if bias is None else bias.to(qkv.dtype)
    if bottom or right:
        qkv = F.pad(qkv, (0, 0, 0, 0, 0, 0, 0, right, 0, bottom))
        absent = F.pad(qkv.new_zeros(1, H, W), (0, right, 0, bottom), value=float("-inf"))
        mask = _cut(absent, window, grid).transpose(2, 3).reshape(-1, 1, 1, h * w)  # (windows, 1, 1, L)
        bias = mask if bias is None else bias + mask
    cut = _cut(qkv, window, grid)  # (B, rows, h, columns, w, 3, heads, d)
    rows, columns = cut.shape[1], cut.shape[3]
    # One copy brings windows and heads together: (3, B, windows, heads, L, d).
    stacked = cut.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(3, B, rows * columns, heads, h * w, d)
    out = attend_stacked(stacked, scale=scale, bias=bias, impl=impl)
    out = out.reshape(B, rows, columns, heads, h, w, d).permute(0, 1, 4, 2, 5, 3, 6)
    if grid:  # back to the order (h, rows, w, columns) of the map
        out = out.transpose(1, 2).transpose(3, 4)
    return out.reshape(B, rows * h, columns * w, heads * d)[:, :H, :W]


def window_macs(height: int, width: int, window: tuple[int, int], dim: int) -> int:
    """Multiply-adds of :func:`window_attention` per image: 2·N'·L·C, N' = tokens after padding."""
    h, w = window
    return 2 * (height + padding(height, h)) * (width + padding(width, w)) * h * w * dim


def window_pairs(height: int, width: int, window: tuple[int, int], grid: bool = False) -> int:
    """Pairs of a query and a key, both real, in one window or grid. Without padding, N·L."""
    pairs = 1
    for n, s in zip((height, width), window, strict=True):
        groups = Counter(i % -(-n // s) if grid else i // s for i in range(n))
        pairs *= sum(tokens**2 for tokens in groups.values())
    return pairs


def window_support(height: int, width: int, window: tuple[int, int], grid: bool = False) -> Tensor:
    """(N, N) bool: tokens in one window, or in one grid."""
    rows, columns = (
        torch.arange(n).remainder(-(-n // s)) if grid else torch.arange(n).div(s, rounding_mode="floor")
        for n, s in zip((height, width), window, strict=True)
    )
    return same_label((rows[:, None] * width + columns[None, :]).flatten())


def _cut(x: Tensor, window: tuple[int, int], grid: bool) -> Tensor:
    """(B, H, W, ...) into (B, rows, h, columns, w, ...), a view; sizes must divide."""
    if grid:
        x = x.unflatten(2, (window[1], -1)).unflatten(1, (window[0], -1))
        return x.transpose(1, 2).transpose(3, 4)
    return x.unflatten(2, (-1, window[1])).unflatten(1, (-1, window[0]))
