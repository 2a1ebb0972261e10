"""Spatially separable attention: blocks alternate between windows and a reduced copy of the whole map.

Paper: Chu et al., 2021, "Twins: Revisiting the Design of Spatial Attention in Vision Transformers",
arXiv:2104.13840.
Code: written from the paper; equal to timm's ``twins`` (LSA and GSA), whose treatment of maps that do not
divide is the option ``padding="official"``.
Differs from the paper by default: LSA masks padding and projects real tokens only; the strided
convolution of GSA sees zero padding, so that every token is in some key.
"""

from typing import Any

import torch
from torch import Tensor, nn

from attnbench.mechanisms._attend import fastest
from attnbench.mechanisms._official import NO_DROPOUT, only
from attnbench.mechanisms._spatial_reduction import ReducedAttention
from attnbench.mechanisms._window_attention import (
    window_attention,
    window_macs,
    window_pairs,
    window_support,
)
from attnbench.mechanisms._windows import pad_map
from attnbench.mechanisms._windows import padding as missing
from attnbench.registry import Site, register_mechanism


class LocallyGroupedAttention(nn.Module):
    """LSA: attention inside non-overlapping windows, without shift or position term.

    Cost: 4·N·C² (projection) + 2·N'·w²·C (attention) MACs, N' = tokens after padding to whole windows
    (with ``padding="official"`` the projections cost (3·N' + N)·C²).

    Args:
        site: place in the backbone; gives ``dim`` and ``num_heads``.
        window_size: side of the window; one larger than the map shrinks to it, except in timm.
        qkv_bias: learn a bias in the query, key and value projections.
        padding: ``masked`` or ``official`` (timm: zeros before the projections, attended to as keys).
        impl: ``eager`` or ``sdpa``.

    Raises:
        ValueError: ``window_size`` is not positive, or ``padding`` is unknown.
    """

    def __init__(
        self,
        site: Site,
        *,
        window_size: int = 7,
        qkv_bias: bool = True,
        padding: str = "masked",
        impl: str = "eager",
    ) -> None:
        super().__init__()
        if window_size < 1:
            raise ValueError(f"window_size must be positive, got {window_size}")
        if padding not in ("masked", "official"):
            raise ValueError(f"padding must be 'masked' or 'official', got {padding!r}")
        self.dim, self.num_heads, self.head_dim = site.dim, site.num_heads, site.head_dim
        self.window_size, self.padding, self.impl = window_size, padding, impl
        self.qkv = nn.Linear(self.dim, 3 * self.dim, bias=qkv_bias)
        self.proj = nn.Linear(self.dim, self.dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        H, W = x.shape[1:3]
        window = self._window(H, W)
        if self.padding == "official":
            x = pad_map(x, window)
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))
        out = window_attention(qkv, window, scale=self.head_dim**-0.5, impl=self.impl)
        return self.proj(out[:, :H, :W])

    def macs(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds per image on a height × width map, by phase."""
        h, w = self._window(height, width)
        n = height * width
        official = self.padding == "official"
        projected = (height + missing(height, h)) * (width + missing(width, w)) if official else n
        return {
            "projection": (3 * projected + n) * self.dim**2,
            "attention": window_macs(height, width, (h, w), self.dim),
        }

    def macs_useful(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds less those of masked padding."""
        cost = self.macs(height, width)
        if self.padding == "masked":
            cost["attention"] = 2 * window_pairs(height, width, self._window(height, width)) * self.dim
        return cost

    def parameter_count(self) -> int:
        """Learned parameters: 4·C² + C, 3·C for the qkv bias."""
        c = self.dim
        return 4 * c**2 + c + (3 * c if self.qkv.bias is not None else 0)

    def support(self, height: int, width: int) -> Tensor:
        """(N, N) bool: tokens of one window."""
        return window_support(height, width, self._window(height, width))

    def _window(self, height: int, width: int) -> tuple[int, int]:
        w = self.window_size
        return (w, w) if self.padding == "official" else (min(w, height), min(w, width))


@register_mechanism(
    "spatially_separable",
    title="Spatially separable",
    paper="arXiv:2104.13840",
    year=2021,
    pattern="static",
    complexity="O(N^2)",
    impls=("eager", "sdpa"),
    per_stage={"window_size": 7, "sr_ratio": (8, 4, 2, 1)},
    goldens=("twins_lsa", "twins_gsa"),
)
class SpatiallySeparableAttention(nn.Module):
    """Even blocks attend inside windows (LSA), odd ones to a reduced copy of the whole map (GSA).

    Cost, with N' tokens after padding to whole windows and N_k = ceil(H/r)·ceil(W/r) keys: LSA
    4·N·C² (projection) + 2·N'·w²·C (attention) MACs, GSA 2·N·C² + 2·N_k·C² (projection) + r²·N_k·C²
    (sampling, 0 if r = 1) + 2·N·N_k·C (attention) MACs.

    Args:
        site: place in the backbone; the block's parity chooses between LSA and GSA.
        kind: ``lsa`` or ``gsa``; ``None`` for LSA in even blocks and GSA in odd ones.
        window_size: side of LSA's windows.
        sr_ratio: r, by which GSA reduces each side of the map.
        qkv_bias: learn a bias in the query, key and value projections.
        padding: ``masked`` (padding is never attended to, every token is in some key) or ``official``
            (LSA attends to zero padding, GSA leaves trailing rows and columns out of the keys).
        impl: ``eager`` or ``sdpa``.

    Raises:
        ValueError: ``kind`` or ``padding`` is unknown, a size is not positive, or (when run) the map is
            smaller than ``sr_ratio`` with ``padding="official"``.
    """

    def __init__(
        self,
        site: Site,
        *,
        kind: str | None = None,
        window_size: int = 7,
        sr_ratio: int = 1,
        qkv_bias: bool = True,
        padding: str = "masked",
        impl: str = "eager",
    ) -> None:
        super().__init__()
        self.impl = impl
        kind = ("lsa", "gsa")[site.block % 2] if kind is None else kind
        if kind not in ("lsa", "gsa"):
            raise ValueError(f"kind must be 'lsa', 'gsa' or None, got {kind!r}")
        self.attention: LocallyGroupedAttention | ReducedAttention
        if kind == "lsa":
            self.attention = LocallyGroupedAttention(
                site, window_size=window_size, qkv_bias=qkv_bias, padding=padding, impl=impl
            )
        else:
            self.attention = ReducedAttention(
                site, sr_ratio=sr_ratio, qkv_bias=qkv_bias, padding=padding, impl=impl
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        return self.attention(x)

    def implementation(
        self, device: torch.device, dtype: torch.dtype, height: int, width: int, training: bool
    ) -> str:
        """The faster of ``sdpa`` and ``eager``, in windows and on the reduced map."""
        plain = isinstance(self.attention, ReducedAttention)
        return fastest(device, dtype, training, plain=plain)

    def macs(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds per image on a height × width map, by phase."""
        return self.attention.macs(height, width)

    def macs_useful(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds less those of masked padding."""
        if isinstance(self.attention, LocallyGroupedAttention):
            return self.attention.macs_useful(height, width)
        return self.attention.macs(height, width)

    def parameter_count(self) -> int:
        """Learned parameters: 4·C² + C, 3·C for the qkv bias; in GSA also r²·C² + 3·C if r > 1."""
        return self.attention.parameter_count()

    def support(self, height: int, width: int) -> Tensor:
        """(N, N) bool: LSA the tokens of one window, GSA all (see ``padding``)."""
        return self.attention.support(height, width)

    @staticmethod
    def full_attention_limit(height: int, width: int) -> dict[str, Any]:
        """Options under which this is full attention on a height × width map."""
        return {"window_size": max(height, width), "sr_ratio": 1}

    @classmethod
    def from_official(cls, case: dict[str, Any], impl: str = "eager") -> tuple[nn.Module, dict[str, str]]:
        """timm's ``LocallyGroupedAttn`` and ``GlobalSubSampleAttn``; parameter names are the same."""
        kwargs = case["kwargs"]
        _, H, W, C = case["input_shape"]
        only(kwargs, dim=C, **NO_DROPOUT)
        module = cls(
            Site(C, kwargs.get("num_heads", 8), H, W),
            kind="lsa" if case["cls"].endswith("LocallyGroupedAttn") else "gsa",
            window_size=kwargs.get("ws", 1),
            sr_ratio=kwargs.get("sr_ratio", 1),
            qkv_bias=kwargs.get("qkv_bias", True),
            padding="official",
            impl=impl,
        )
        return module, {"": "attention."}
