"""Shunted self-attention: half of the heads see coarse keys, the other half keys twice as fine.

Paper: Ren et al., 2022, "Shunted Self-Attention via Multi-Scale Token Aggregation", arXiv:2111.15193.
Code: written from the paper and the definition in the official ``SSA.py``; equal to its ``Attention``.
Settings: reductions 8, 4, 2, 1 of Shunted-S; its heads (2, 4, 8, 16) become the layout's.
Differs from the official code by default: a strided convolution sees zeros beyond a map that it does not
divide, so that every token is in a key; the official code, ``padding="official"``, leaves trailing rows and
columns out of the keys. An odd number of heads is accepted: the finer keys get the odd one, and a single
head sees only those.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnbench.implementations import resolve
from attnbench.mechanisms._attend import FastestPlainAttend, attend
from attnbench.mechanisms._cast_once import cast_once
from attnbench.mechanisms._local import DepthwiseConv
from attnbench.mechanisms._official import NO_DROPOUT, only
from attnbench.mechanisms._patches import PatchConv
from attnbench.mechanisms._windows import pad_map
from attnbench.registry import Site, register_mechanism


class ShuntedBranch(FastestPlainAttend, nn.Module):
    """Some heads, and the keys and values they see.

    Keys and values come from y = GELU(LayerNorm(r × r convolution of x with stride r)) and the values are
    enhanced, v ← v + 3 × 3 depth-wise convolution of v; or, with ``ratio=None``, from x itself, and the
    depth-wise term is added to the output instead.

    Args:
        dim: channels C of the map.
        num_heads, head_dim: heads of this branch and channels of each; C' = num_heads · head_dim.
        ratio: reduction r, or ``None``.
        scale: factor on the logits.
        qkv_bias: learn a bias in the key and value projections.
        padding: ``masked`` or ``official``: whether a map is padded to whole r × r patches.
        impl: ``eager`` or ``sdpa``.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        head_dim: int,
        ratio: int | None,
        *,
        scale: float,
        qkv_bias: bool,
        padding: str,
        impl: str,
    ) -> None:
        super().__init__()
        self.dim, self.num_heads, self.scale, self.padding = dim, num_heads, scale, padding
        self.width, self.ratio, self.impl = num_heads * head_dim, ratio, impl
        self.reduce = PatchConv(dim, dim, ratio) if ratio else None
        self.norm = nn.LayerNorm(dim) if ratio else None
        self.kv = nn.Linear(dim, 2 * self.width, bias=qkv_bias)
        self.local = DepthwiseConv(self.width, 3)

    def forward(self, q: Tensor, x: Tensor) -> Tensor:
        """Let q (B, heads, N, d) attend to the map x (B, H, W, C): (B, H, W, C')."""
        if self.reduce is not None and self.norm is not None and self.ratio:
            y = pad_map(x, (self.ratio, self.ratio)) if self.padding == "masked" else x
            y = F.gelu(self.norm(self.reduce(y)))
        else:
            y = x
        k, v = self.kv(y).split(self.width, dim=-1)  # each (B, H_k, W_k, C')
        local = self.local(v)
        if self.ratio:
            v = v + local
        k, v = (t.flatten(1, 2).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in (k, v))
        out = attend(q, k, v, scale=self.scale, impl=resolve(self, q, x.shape[1], x.shape[2]))
        out = out.transpose(1, 2).reshape(*x.shape[:3], self.width)
        return out if self.ratio else out + local

    def macs(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds per image on a height × width map, by phase."""
        rows, columns = self.reduced(height, width)
        n, r, keys = height * width, self.ratio or 1, rows * columns
        cost = {
            "projection": 2 * keys * self.dim * self.width,
            "attention": 2 * n * keys * self.width,
            "local": self.local.macs(rows, columns),
        }
        if self.ratio:
            cost["sampling"] = r**2 * keys * self.dim**2
        return cost

    def reduced(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the keys."""
        r = self.ratio or 1
        if self.padding == "masked":
            return -(-height // r), -(-width // r)
        return height // r, width // r

    def parameter_count(self) -> int:
        """Learned parameters: (2·C + 10)·C', 2·C' for the bias, r²·C² + 3·C for the reduction."""
        reduction = self.ratio**2 * self.dim**2 + 3 * self.dim if self.ratio else 0
        bias = 2 * self.width if self.kv.bias is not None else 0
        return 2 * self.dim * self.width + bias + self.local.parameter_count() + reduction


@register_mechanism(
    "shunted",
    title="Shunted",
    paper="arXiv:2111.15193",
    year=2022,
    pattern="static",
    complexity="O(N^2)",
    impls=("eager", "sdpa"),
    per_stage={"sr_ratio": (8, 4, 2, 1)},
    goldens=("shunted",),
)
class ShuntedAttention(FastestPlainAttend, nn.Module):
    """Heads in two groups that attend to the map reduced by r and by r/2.

    Cost: 2·N·C² (projection) and for each group of C' channels with N_k = ⌈H/r⌉·⌈W/r⌉ keys: 2·N_k·C·C'
    (projection) + r²·N_k·C² (sampling) + 2·N·N_k·C' (attention) + 9·N_k·C' (local) MACs. With
    ``sr_ratio=1`` there is one group, of all heads, and no sampling.

    Args:
        site: place in the backbone; ⌊heads/2⌋ heads see the coarser keys.
        sr_ratio: reduction r of the coarser group; the finer one has r/2. 1 for one unreduced group.
        qkv_bias: learn a bias in the query, key and value projections.
        qk_scale: factor on the logits; ``None`` for head_dim^-1/2.
        padding: ``masked`` (every token takes part in some key) or ``official`` (trailing rows and columns
            that do not fill a whole patch are in no key).
        impl: ``eager`` or ``sdpa``.

    Raises:
        ValueError: ``sr_ratio`` is neither 1 nor a positive even number, ``padding`` is unknown, or (when
            run) the map is smaller than ``sr_ratio`` with ``padding="official"``.
    """

    def __init__(
        self,
        site: Site,
        *,
        sr_ratio: int = 1,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        padding: str = "masked",
        impl: str = "eager",
    ) -> None:
        super().__init__()
        self.impl, self.sr_ratio, self.padding = impl, sr_ratio, padding
        if padding not in ("masked", "official"):
            raise ValueError(f"padding must be 'masked' or 'official', got {padding!r}")
        if sr_ratio < 1 or (sr_ratio > 1 and sr_ratio % 2):
            raise ValueError(f"sr_ratio must be 1 or even (half of the heads halve it), got {sr_ratio}")
        self.dim, self.num_heads = site.dim, site.num_heads
        coarse = site.num_heads // 2
        groups: list[tuple[int, int | None]] = [(coarse, sr_ratio), (site.num_heads - coarse, sr_ratio // 2)]
        if sr_ratio == 1:
            groups = [(site.num_heads, None)]
        self.q = nn.Linear(self.dim, self.dim, bias=qkv_bias)
        self.branches = nn.ModuleList(
            ShuntedBranch(
                self.dim,
                heads,
                site.head_dim,
                ratio,
                scale=site.head_dim**-0.5 if qk_scale is None else qk_scale,
                qkv_bias=qkv_bias,
                padding=padding,
                impl=impl,
            )
            for heads, ratio in groups
            if heads
        )
        self.proj = nn.Linear(self.dim, self.dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        self._check(x.shape[1], x.shape[2])
        x = cast_once(x)
        q = self.q(x).flatten(1, 2).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, N, d)
        groups = q.split([branch.num_heads for branch in self._groups()], dim=1)
        parts = [branch(part, x) for branch, part in zip(self.branches, groups, strict=True)]
        return self.proj(torch.cat(parts, dim=-1))

    def macs(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds per image on a height × width map, by phase."""
        self._check(height, width)
        cost = {"projection": 2 * height * width * self.dim**2}
        for branch in self._groups():
            for phase, macs in branch.macs(height, width).items():
                cost[phase] = cost.get(phase, 0) + macs
        return cost

    def parameter_count(self) -> int:
        """Learned parameters: 2·C² + C, C for the query bias, those of the branches."""
        c = self.dim
        own = 2 * c**2 + c + (c if self.q.bias is not None else 0)
        return own + sum(branch.parameter_count() for branch in self._groups())

    def support(self, height: int, width: int) -> Tensor:
        """(N, N) bool: all, since the keys cover the map; officially tokens in a key of a group."""
        n = height * width
        if self.padding == "masked" or self.sr_ratio == 1:
            return torch.ones(n, n, dtype=torch.bool)
        used = torch.zeros(height, width, dtype=torch.bool)
        for branch in self._groups():
            rows, columns = branch.reduced(height, width)
            used[: rows * (branch.ratio or 1), : columns * (branch.ratio or 1)] = True
        alone = all(branch.reduced(height, width) == (1, 1) for branch in self._groups())
        # With one key the softmax is 1 whatever the query, which then has no say.
        return used.flatten()[None, :] | (torch.eye(n, dtype=torch.bool) & (not alone))

    def _check(self, height: int, width: int) -> None:
        if self.padding == "official" and min(height, width) < self.sr_ratio:
            raise ValueError(
                f"padding='official' needs a map of at least sr_ratio {self.sr_ratio} tokens a side, "
                f"got {height} x {width}; padding='masked' takes any"
            )

    def _groups(self) -> list[ShuntedBranch]:
        return [branch for branch in self.branches if isinstance(branch, ShuntedBranch)]

    @classmethod
    def from_official(cls, case: dict[str, Any], impl: str = "eager") -> tuple[nn.Module, dict[str, str]]:
        """``Attention`` of ``SSA.py``."""
        kwargs = case["kwargs"]
        _, H, W, C = case["input_shape"]
        only(kwargs, dim=C, **NO_DROPOUT)
        heads, ratio = kwargs.get("num_heads", 8), kwargs.get("sr_ratio", 1)
        if ratio not in (1, 2, 4, 8) or (ratio > 1 and heads % 2):
            raise ValueError(
                f"the official code runs with sr_ratio 1, 2, 4, 8 and even heads, got {ratio}, {heads}"
            )
        module = cls(
            Site(C, heads, H, W),
            sr_ratio=ratio,
            qkv_bias=kwargs.get("qkv_bias", False),
            qk_scale=kwargs.get("qk_scale") or None,
            padding="official",
            impl=impl,
        )
        if ratio == 1:
            return module, {"kv.": "branches.0.kv.", "local_conv.": "branches.0.local."}
        names = {"sr": "reduce", "norm": "norm", "kv": "kv", "local_conv": "local"}
        return module, {f"{n}{i + 1}.": f"branches.{i}.{own}." for n, own in names.items() for i in (0, 1)}
