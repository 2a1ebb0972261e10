"""Full attention: every token attends to every token.

Paper: Vaswani et al., 2017, "Attention Is All You Need", arXiv:1706.03762.
Code: written from the definition; equal to BiFormer's ``Attention``, ``AttentionLePE`` and
``nchwAttentionLePE`` (its stage 4), whose depth-wise term is the option ``lepe_kernel``.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from attnbench.backends import xformers_attention
from attnbench.implementations import resolve
from attnbench.mechanisms._attend import FastestPlainAttend, attend, split_heads
from attnbench.mechanisms._local import DepthwiseConv
from attnbench.mechanisms._official import NO_DROPOUT, only
from attnbench.registry import Site, register_mechanism


@register_mechanism(
    "full",
    title="Full",
    paper="arXiv:1706.03762",
    year=2017,
    pattern="static",
    complexity="O(N^2)",
    impls=("sdpa", "eager", "xformers"),
    goldens=("full_attention",),
)
class FullAttention(FastestPlainAttend, nn.Module):
    """Multi-head self-attention over all tokens of the map.

    Cost: 4·N·C² (projection) + 2·N²·C (attention) + k²·N·C (local, with a k × k depth-wise term) MACs.

    Args:
        site: place in the backbone.
        qkv_bias: learn a bias in the query, key and value projections.
        lepe_kernel: odd size of a depth-wise convolution added before the output projection; 0 for none.
        lepe_input: what it convolves: ``v`` (LePE proper) or ``x`` (the module's input, as in the
            first release of BiFormer).
        qk_scale: factor on the logits; ``None`` for head_dim^-1/2.
        impl: ``eager``, ``sdpa`` or ``xformers``.

    Raises:
        ValueError: ``lepe_input`` is neither ``v`` nor ``x``.
        ImplementationError: ``impl`` cannot run here.
    """

    bare: ClassVar[dict[str, Any]] = {"lepe_kernel": 0}

    def __init__(
        self,
        site: Site,
        *,
        qkv_bias: bool = True,
        lepe_kernel: int = 0,
        lepe_input: str = "v",
        qk_scale: float | None = None,
        impl: str = "eager",
    ) -> None:
        super().__init__()
        if lepe_input not in ("v", "x"):
            raise ValueError(f"lepe_input must be 'v' or 'x', got {lepe_input!r}")
        self.dim, self.num_heads = site.dim, site.num_heads
        self.scale = site.head_dim**-0.5 if qk_scale is None else qk_scale
        self.lepe_input = lepe_input
        self.impl = impl
        self.attend = xformers_attention() if impl == "xformers" else attend
        self.qkv = nn.Linear(self.dim, 3 * self.dim, bias=qkv_bias)
        self.lepe = DepthwiseConv(self.dim, lepe_kernel) if lepe_kernel else None
        self.proj = nn.Linear(self.dim, self.dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        B, H, W, C = x.shape
        qkv = self.qkv(x)
        q, k, v = split_heads(qkv.flatten(1, 2), self.num_heads)  # each (B, heads, N, d)
        out = self.attend(q, k, v, scale=self.scale, impl=resolve(self, q, H, W))
        out = out.transpose(1, 2).reshape(B, H, W, -1)
        if self.lepe is not None:
            out = out + self.lepe(x if self.lepe_input == "x" else qkv[..., 2 * C :])
        return self.proj(out)

    def macs(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds per image on a height × width map, by phase."""
        n, c = height * width, self.dim
        cost = {"projection": 4 * n * c**2, "attention": 2 * n**2 * c}
        if self.lepe is not None:
            cost["local"] = self.lepe.macs(height, width)
        return cost

    def parameter_count(self) -> int:
        """Learned parameters: 4·C² + C, 3·C for the qkv bias, (k² + 1)·C for the depth-wise term."""
        c = self.dim
        bias = 3 * c if self.qkv.bias is not None else 0
        return 4 * c**2 + c + bias + (self.lepe.parameter_count() if self.lepe is not None else 0)

    def support(self, height: int, width: int) -> Tensor:
        """(N, N) bool: entry (i, j) where output token i depends on input token j; here all."""
        n = height * width
        return torch.ones(n, n, dtype=torch.bool)

    def attention_map(self, x: Tensor, queries: Tensor) -> Tensor:
        """(Q, heads, N): how much the tokens ``queries`` of (1, H, W, C) read each, local term apart."""
        q, k, _ = split_heads(self.qkv(x).flatten(1, 2), self.num_heads)
        logits = (q[0, :, queries] * self.scale) @ k[0].transpose(-2, -1)  # (heads, Q, N)
        return logits.softmax(dim=-1).transpose(0, 1)

    @classmethod
    def from_official(cls, case: dict[str, Any], impl: str = "eager") -> tuple[nn.Module, dict[str, str]]:
        """BiFormer's modules of models/_common.py; parameter names are the same."""
        kwargs = case["kwargs"]
        _, H, W, C = case["input_shape"]
        site = Site(C, kwargs.get("num_heads", 8), H, W)
        form = case["cls"].rpartition(":")[2]
        only(kwargs, dim=C, **NO_DROPOUT)
        module = cls(
            site,
            qkv_bias=kwargs.get("qkv_bias", False),
            lepe_kernel=kwargs.get("side_dwconv", 0 if form == "Attention" else 5),
            qk_scale=kwargs.get("qk_scale") or None,
            lepe_input="x" if form == "AttentionLePE" else "v",
            impl=impl,
        )
        return module, {}
