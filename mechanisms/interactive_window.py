"""Interactive windows: blocks alternate between windows joined by a convolution and scalable attention.

Paper: Yang et al., 2022, "ScalableViT: Rethinking the Context-oriented Generalization of Vision
Transformer", arXiv:2203.10790.
Code: written from the paper and the definition in the official ``scalablevit.py``, to whose ``IWSA`` and
``SSA`` it is equal.
Settings: ScalableViT-S, windows of 7 × 7, reductions 8, 4, 2, 1 and channel ratios 1.25, 1.25, 1.25, 1; the
layout's dims and heads, which are ScalableViT-B's.
Differs from the official code by default: any map is accepted (window padding is masked; the strided
convolution sees zeros beyond the map, where the official code, ``padding="official"``, leaves trailing rows
and columns out of the keys); scaled channels are rounded down to whole heads.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnbench.implementations import resolve
from attnbench.mechanisms._attend import attend, fastest
from attnbench.mechanisms._cast_once import cast_once
from attnbench.mechanisms._local import DepthwiseConv, neighbours
from attnbench.mechanisms._official import NO_DROPOUT, only
from attnbench.mechanisms._patches import PatchConv
from attnbench.mechanisms._window_attention import (
    window_attention,
    window_macs,
    window_pairs,
    window_support,
)
from attnbench.mechanisms._windows import pad_map
from attnbench.registry import Site, register_mechanism


class InteractiveWindows(nn.Module):
    """IWSA: attention inside windows plus a 3 × 3 depth-wise convolution of v over the whole map.

    Cost: 4·N·C² (projection) + 2·N'·w²·C (attention) + 9·N·C (local) MACs, N' = tokens after padding.

    Args:
        site: place in the backbone.
        window_size: side w of a window; one larger than the map shrinks to it.
        qkv_bias: learn a bias in the query, key and value projections.
        qk_scale: factor on the logits; ``None`` for head_dim^-1/2.
        impl: ``eager`` or ``sdpa``.
    """

    def __init__(
        self, site: Site, window_size: int, *, qkv_bias: bool, qk_scale: float | None, impl: str
    ) -> None:
        super().__init__()
        self.dim, self.num_heads = site.dim, site.num_heads
        self.scale = site.head_dim**-0.5 if qk_scale is None else qk_scale
        self.window_size, self.impl = window_size, impl
        self.qkv = nn.Linear(self.dim, 3 * self.dim, bias=qkv_bias)
        self.interact = DepthwiseConv(self.dim, 3)
        self.proj = nn.Linear(self.dim, self.dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        qkv = self.qkv(x)
        heads = qkv.unflatten(-1, (3, self.num_heads, -1))
        window = self._window(x.shape[1], x.shape[2])
        out = window_attention(heads, window, scale=self.scale, impl=self.impl)
        return self.proj(out + self.interact(qkv[..., 2 * self.dim :]))

    def macs(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds per image on a height × width map, by phase."""
        return {
            "projection": 4 * height * width * self.dim**2,
            "attention": window_macs(height, width, self._window(height, width), self.dim),
            "local": self.interact.macs(height, width),
        }

    def macs_useful(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds less those of masked padding."""
        pairs = window_pairs(height, width, self._window(height, width))
        return {**self.macs(height, width), "attention": 2 * pairs * self.dim}

    def parameter_count(self) -> int:
        """Learned parameters: 4·C² + 11·C, 3·C for the qkv bias."""
        c = self.dim
        return 4 * c**2 + 11 * c + (3 * c if self.qkv.bias is not None else 0)

    def support(self, height: int, width: int) -> Tensor:
        """(N, N) bool: tokens of one window, and neighbours in any."""
        windows = window_support(height, width, self._window(height, width))
        return windows | neighbours(height, width, 3)

    def _window(self, height: int, width: int) -> tuple[int, int]:
        return min(self.window_size, height), min(self.window_size, width)


class ScalableAttention(nn.Module):
    """SSA: keys on fewer tokens, queries and keys with C' channels instead of C.

    Keys and values come from GELU(LayerNorm(r × r depth-wise convolution with stride r, then C → C')).
    With r = 1 they come from x, and C' = C.
    Cost, N_k = ⌈H/r⌉·⌈W/r⌉ keys (rounded down with ``padding="official"``):
    N·C·(C + C') + N_k·C'·(C + C') (projection) + r²·N_k·C + N_k·C·C'
    (sampling, 0 if r = 1) + N·N_k·(C + C') (attention) MACs.

    Args:
        site: place in the backbone.
        sr_ratio: reduction r of each side of the map.
        c_ratio: C'/C, rounded down to whole heads.
        qkv_bias: learn a bias in the query, key and value projections.
        qk_scale: factor on the logits; ``None`` for that of the scaled heads, (C' / heads)^-1/2.
        padding: ``masked`` or ``official``, see the mechanism.
        impl: ``eager`` or ``sdpa``.
    """

    def __init__(
        self,
        site: Site,
        sr_ratio: int,
        c_ratio: float,
        *,
        qkv_bias: bool,
        qk_scale: float | None,
        padding: str,
        impl: str,
    ) -> None:
        super().__init__()
        self.dim, self.num_heads, self.ratio, self.impl = site.dim, site.num_heads, sr_ratio, impl
        key_dim = max(1, int(site.head_dim * c_ratio)) if sr_ratio > 1 else site.head_dim
        self.scale, self.scaled = key_dim**-0.5 if qk_scale is None else qk_scale, key_dim * site.num_heads
        self.padding = padding
        self.q = nn.Linear(self.dim, self.scaled, bias=qkv_bias)
        self.reduce: nn.Sequential | None = None
        self.norm: nn.LayerNorm | None = None
        if sr_ratio == 1:
            self.kv = nn.Linear(self.dim, 2 * self.dim, bias=qkv_bias)
        else:
            self.k = nn.Linear(self.scaled, self.scaled, bias=qkv_bias)
            self.v = nn.Linear(self.scaled, self.dim, bias=qkv_bias)
            self.reduce = nn.Sequential(
                PatchConv(self.dim, self.dim, sr_ratio, groups=self.dim),
                PatchConv(self.dim, self.scaled, 1),
            )
            self.norm = nn.LayerNorm(self.scaled)
        self.proj = nn.Linear(self.dim, self.dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        x = cast_once(x)
        if self.reduce is not None and self.norm is not None:
            self._reduced(x.shape[1], x.shape[2])
            y = pad_map(x, (self.ratio, self.ratio)) if self.padding == "masked" else x
            y = cast_once(F.gelu(self.norm(self.reduce(y))))
            projected = self.q(x), self.k(y), self.v(y)
        else:
            projected = (self.q(x), *self.kv(x).chunk(2, dim=-1))
        # (B, heads, tokens, channels); v has other channels than q and k
        B, heads = x.shape[0], self.num_heads
        q, k, v = (t.reshape(B, -1, heads, t.shape[-1] // heads).transpose(1, 2) for t in projected)
        impl = resolve(self, q, x.shape[1], x.shape[2])
        out = attend(q, k, v, scale=self.scale, impl=impl)
        return self.proj(out.transpose(1, 2).reshape(x.shape))

    def implementation(
        self, device: torch.device, dtype: torch.dtype, height: int, width: int, training: bool
    ) -> str:
        """``eager`` on a CPU where heads of v have another width: torch's fused attention is slow there."""
        if device.type == "cpu" and self.scaled != self.dim:
            return "eager"
        return fastest(device, dtype, training)

    def macs(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds per image on a height × width map, by phase."""
        rows, columns = self._reduced(height, width)
        n, keys, c, scaled = height * width, rows * columns, self.dim, self.scaled
        cost = {
            "projection": (n * c + keys * scaled) * (c + scaled),
            "attention": n * keys * (c + scaled),
        }
        if self.reduce is not None:
            cost["sampling"] = self.ratio**2 * keys * c + keys * c * scaled
        return cost

    def parameter_count(self) -> int:
        """(C + C')² + C, C + 2·C' for the qkv bias, (r² + 1)·C + (C + 3)·C' for the reduction."""
        c, s = self.dim, self.scaled
        reduction = (self.ratio**2 + 1) * c + (c + 3) * s if self.reduce is not None else 0
        return (c + s) * c + (c + s) * s + c + (c + 2 * s if self.q.bias is not None else 0) + reduction

    def support(self, height: int, width: int) -> Tensor:
        """(N, N) bool: all, since the keys cover the map; officially tokens in a key, and itself."""
        n, (rows, columns) = height * width, self._reduced(height, width)
        if self.padding == "masked" or self.ratio == 1:
            return torch.ones(n, n, dtype=torch.bool)
        used = torch.zeros(height, width, dtype=torch.bool)
        used[: rows * self.ratio, : columns * self.ratio] = True
        # With one key the softmax is 1 whatever the query, which then has no say.
        return used.flatten()[None, :] | (torch.eye(n, dtype=torch.bool) & (rows * columns > 1))

    def _reduced(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the keys."""
        if self.padding == "masked":
            return -(-height // self.ratio), -(-width // self.ratio)
        if min(height, width) < self.ratio:
            raise ValueError(
                f"padding='official' needs a map of at least sr_ratio {self.ratio} tokens a side, "
                f"got {height} x {width}; padding='masked' takes any"
            )
        return height // self.ratio, width // self.ratio


@register_mechanism(
    "interactive_window",
    title="Interactive window",
    paper="arXiv:2203.10790",
    year=2022,
    pattern="static",
    complexity="O(N^2)",
    impls=("eager", "sdpa"),
    per_stage={"window_size": 7, "sr_ratio": (8, 4, 2, 1), "c_ratio": (1.25, 1.25, 1.25, 1.0)},
    goldens=("scalablevit_iwsa", "scalablevit_ssa"),
)
class InteractiveWindowAttention(nn.Module):
    """Even blocks attend inside interactive windows (IWSA), odd ones to the whole map, scaled (SSA).

    Cost: see :class:`InteractiveWindows` and :class:`ScalableAttention`.

    Args:
        site: place in the backbone; the block's parity chooses between IWSA and SSA.
        kind: ``iwsa`` or ``ssa``; ``None`` for IWSA in even blocks and SSA in odd ones.
        window_size: side of IWSA's windows.
        sr_ratio: r, by which SSA reduces each side of the map for keys and values.
        c_ratio: by which SSA scales the channels of queries and keys, if r > 1.
        qkv_bias: learn a bias in the query, key and value projections.
        qk_scale: factor on the logits; ``None`` for (channels of a head of queries)^-1/2.
        padding: of SSA: ``masked`` (every token takes part in some key) or ``official`` (trailing rows and
            columns that do not fill a whole patch are in no key).
        impl: ``eager`` or ``sdpa``.

    Raises:
        ValueError: ``kind`` or ``padding`` is unknown, ``window_size``, ``sr_ratio`` or ``c_ratio`` is not
            positive, or (when run) the map is smaller than ``sr_ratio`` with ``padding="official"``.
    """

    def __init__(
        self,
        site: Site,
        *,
        kind: str | None = None,
        window_size: int = 7,
        sr_ratio: int = 1,
        c_ratio: float = 1.25,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        padding: str = "masked",
        impl: str = "eager",
    ) -> None:
        super().__init__()
        self.impl = impl
        if padding not in ("masked", "official"):
            raise ValueError(f"padding must be 'masked' or 'official', got {padding!r}")
        kind = ("iwsa", "ssa")[site.block % 2] if kind is None else kind
        if kind not in ("iwsa", "ssa"):
            raise ValueError(f"kind must be 'iwsa', 'ssa' or None, got {kind!r}")
        if window_size < 1 or sr_ratio < 1 or c_ratio <= 0:
            raise ValueError(
                "window_size, sr_ratio and c_ratio must be positive, "
                f"got {window_size}, {sr_ratio} and {c_ratio}"
            )
        self.attention: InteractiveWindows | ScalableAttention
        if kind == "iwsa":
            self.attention = InteractiveWindows(
                site, window_size, qkv_bias=qkv_bias, qk_scale=qk_scale, impl=impl
            )
        else:
            self.attention = ScalableAttention(
                site, sr_ratio, c_ratio, qkv_bias=qkv_bias, qk_scale=qk_scale, padding=padding, impl=impl
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        return self.attention(x)

    def implementation(
        self, device: torch.device, dtype: torch.dtype, height: int, width: int, training: bool
    ) -> str:
        """The faster of ``sdpa`` and ``eager``, as the block's kind has it."""
        if isinstance(self.attention, ScalableAttention):
            return self.attention.implementation(device, dtype, height, width, training)
        return fastest(device, dtype, training)

    def macs(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds per image on a height × width map, by phase."""
        return self.attention.macs(height, width)

    def macs_useful(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds less those of masked padding."""
        if isinstance(self.attention, InteractiveWindows):
            return self.attention.macs_useful(height, width)
        return self.attention.macs(height, width)

    def parameter_count(self) -> int:
        """Learned parameters; see the two parts."""
        return self.attention.parameter_count()

    def support(self, height: int, width: int) -> Tensor:
        """(N, N) bool: IWSA tokens of one window and neighbours, SSA all."""
        return self.attention.support(height, width)

    @classmethod
    def from_official(cls, case: dict[str, Any], impl: str = "eager") -> tuple[nn.Module, dict[str, str]]:
        """``IWSA`` and ``SSA`` of ``scalablevit.py``.

        Raises:
            ValueError: the official code does not run so.
        """
        kwargs = case["kwargs"]
        _, H, W, C = case["input_shape"]
        only(kwargs, dim=C, **NO_DROPOUT)
        site = Site(C, kwargs.get("num_heads", 8), H, W)
        bias, scale = kwargs.get("qkv_bias", False), kwargs.get("qk_scale") or None
        if case["mechanism"] == "scalablevit_iwsa":
            size = kwargs.get("ws", 7)
            if H % size or W % size:
                raise ValueError(f"the official IWSA needs a map divisible by {size}, got {H} x {W}")
            module = cls(site, kind="iwsa", window_size=size, qkv_bias=bias, qk_scale=scale, impl=impl)
            return module, {"lim_func.": "attention.interact.", "": "attention."}
        c_ratio = kwargs.get("c_ratio", 1.25)
        module = cls(
            site,
            kind="ssa",
            sr_ratio=int(kwargs.get("sr_ratio", 1)),
            c_ratio=c_ratio,
            qkv_bias=bias,
            qk_scale=scale or (site.head_dim * c_ratio) ** -0.5,  # also where no channels are scaled
            padding="official",
            impl=impl,
        )
        return module, {"reduction.": "attention.reduce.", "norm_act.0.": "attention.norm.", "": "attention."}
