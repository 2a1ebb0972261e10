"""Local and global relations: a learned 5 × 5 neighbourhood in early stages, full attention in late ones.

Paper: Li et al., 2022, "UniFormer: Unifying Convolution and Self-Attention for Visual Recognition",
arXiv:2201.09450.
Code: written from the paper, section 3.2 (MHRA); equal to the official ``Attention`` and to the three
convolutions of ``CBlock``.
Settings: UniFormer-S, local in the first two stages and global in the last two; the layout's dims and heads
(of 32 channels, where UniFormer-S has 64).
Differs from the paper: only MHRA is here; the block's dynamic position embedding (3 × 3 depth-wise, before
the norm) and its batch norms belong to the block, which the frame fixes. The local affinity is one
parameter per channel and offset, as in the official code, and carries its convolution's bias.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from attnbench.implementations import resolve
from attnbench.mechanisms._attend import FastestPlainAttend, attend, split_heads
from attnbench.mechanisms._local import DepthwiseConv, neighbours
from attnbench.mechanisms._official import NO_DROPOUT, ignored, only
from attnbench.registry import Site, register_mechanism
from attnbench.scaling_rules import Rule


@register_mechanism(
    "local_global",
    title="Local-global (UniFormer)",
    paper="arXiv:2201.09450",
    year=2022,
    pattern="static",
    complexity="O(N^2)",
    impls=("eager", "sdpa"),
    per_stage={"kind": ("local", "local", "global", "global")},
    goldens=("uniformer_global", "uniformer_local"),
)
class LocalGlobalAttention(FastestPlainAttend, nn.Module):
    """Values aggregated by a learned affinity to near positions, or by attention over all tokens.

    Cost: local 2·N·C² (projection) + k²·N·C (local) MACs; global 4·N·C² (projection) + 2·N²·C (attention).

    Args:
        site: place in the backbone; stages 0 and 1 are local unless ``kind`` says otherwise.
        kind: ``local``, ``global``, or ``None`` for the rule above.
        kernel_size: odd side k of the local neighbourhood.
        qkv_bias: learn a bias in the query, key and value projections; local: in the value projection.
        qk_scale: factor on the logits; ``None`` for head_dim^-1/2. Without effect if local.
        impl: ``eager`` or ``sdpa``; without effect if local.

    Raises:
        ValueError: ``kind`` is unknown, or ``kernel_size`` is even or not positive.
    """

    growth: ClassVar[tuple[Rule, ...]] = (
        Rule("local", "5 × 5 neighbors, as in stages 1 and 2", lambda *_: {"kind": "local"}, 1.0),
        Rule("global", "all tokens, as in stages 3 and 4", lambda *_: {"kind": "global"}, 2.0),
    )

    def __init__(
        self,
        site: Site,
        *,
        kind: str | None = None,
        kernel_size: int = 5,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        impl: str = "eager",
    ) -> None:
        super().__init__()
        kind = ("local" if site.stage < 2 else "global") if kind is None else kind
        if kind not in ("local", "global"):
            raise ValueError(f"kind must be 'local', 'global' or None, got {kind!r}")
        self.dim, self.num_heads, self.head_dim = site.dim, site.num_heads, site.head_dim
        self.scale, self.impl = self.head_dim**-0.5 if qk_scale is None else qk_scale, impl
        self.local = DepthwiseConv(self.dim, kernel_size) if kind == "local" else None
        self.qkv = nn.Linear(self.dim, self.dim * (1 if self.local else 3), bias=qkv_bias)
        self.proj = nn.Linear(self.dim, self.dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        if self.local is not None:
            return self.proj(self.local(self.qkv(x)))
        q, k, v = split_heads(self.qkv(x).flatten(1, 2), self.num_heads)  # each (B, heads, N, d)
        out = attend(q, k, v, scale=self.scale, impl=resolve(self, q, x.shape[1], x.shape[2]))
        return self.proj(out.transpose(1, 2).reshape(x.shape))

    def macs(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds per image on a height × width map, by phase."""
        n, c = height * width, self.dim
        if self.local is not None:
            return {"projection": 2 * n * c**2, "local": self.local.macs(height, width)}
        return {"projection": 4 * n * c**2, "attention": 2 * n**2 * c}

    def parameter_count(self) -> int:
        """Local 2·C² + (k² + 2)·C, C for the bias; global 4·C² + C, 3·C for the bias."""
        c, parts = self.dim, 1 if self.local is not None else 3
        own = (parts + 1) * c**2 + c + (parts * c if self.qkv.bias is not None else 0)
        return own + (self.local.parameter_count() if self.local is not None else 0)

    def support(self, height: int, width: int) -> Tensor:
        """(N, N) bool: local the k × k neighbours, global all."""
        if self.local is not None:
            return neighbours(height, width, self.local.kernel_size)
        n = height * width
        return torch.ones(n, n, dtype=torch.bool)

    @staticmethod
    def full_attention_limit(height: int, width: int) -> dict[str, Any]:
        """Options under which this is full attention on a height × width map."""
        return {"kind": "global"}

    @classmethod
    def from_official(cls, case: dict[str, Any], impl: str = "eager") -> tuple[nn.Module, dict[str, str]]:
        """UniFormer's ``Attention``, and ``conv1``, ``attn`` and ``conv2`` of its ``CBlock``."""
        kwargs = case["kwargs"]
        _, H, W, C = case["input_shape"]
        only(kwargs, dim=C, **NO_DROPOUT)
        site = Site(C, kwargs.get("num_heads", 8), H, W)
        if case["mechanism"] == "uniformer_global":
            scale, bias = kwargs.get("qk_scale"), kwargs.get("qkv_bias", False)
            return cls(site, kind="global", qkv_bias=bias, qk_scale=scale or None, impl=impl), {}
        ignored(kwargs, "qk_scale", "qkv_bias", "mlp_ratio")  # a CBlock takes them, its convolutions do not
        return cls(site, kind="local", impl=impl), {"conv1.": "qkv.", "attn.": "local.", "conv2.": "proj."}
