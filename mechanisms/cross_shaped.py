"""Cross-shaped windows: half the heads attend inside vertical stripes, half inside horizontal ones.

Paper: Dong et al., 2022, "CSWin Transformer: A General Vision Transformer Backbone with Cross-Shaped
Windows", arXiv:2107.00652.
Code: written from the paper and the official ``LePEAttention`` and ``CSWinBlock``, to which it is equal.
Differs from the official code: any map is accepted (stripes that do not fill the map are padded, and
padding is masked), and so is an odd number of heads.
"""

from collections import Counter
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from attnbench.mechanisms._attend import FastestAttend
from attnbench.mechanisms._local import DepthwiseConv
from attnbench.mechanisms._official import NO_DROPOUT, ignored, only
from attnbench.mechanisms._window_attention import (
    window_attention,
    window_macs,
    window_pairs,
    window_support,
)
from attnbench.mechanisms._windows import merge, pad_map, partition
from attnbench.mechanisms._windows import padding as missing
from attnbench.registry import Site, register_mechanism


class StripeAttention(nn.Module):
    """Attention inside the stripes of one direction, with its position terms; no projections.

    Cost: 2·N'·L·C (attention) + lepe_kernel²·N'·C (local) MACs, L = tokens of a stripe,
    N' = tokens of all stripes.

    Args:
        dim: channels C of this branch.
        num_heads: heads of this branch.
        axis: ``vertical`` (full height, width ``split_size``), ``horizontal`` (the reverse) or ``global``
            (one stripe: the map).
        split_size: width of a stripe; one larger than the map shrinks to it.
        lepe_kernel: odd size of the depth-wise convolution of v, which sees zeros beyond its stripe; 0 for
            none.
        bias_size: map to size a relative position bias for; ``None`` for no bias.
        qk_scale: factor on the logits; ``None`` for head_dim^-1/2.
        impl: ``eager`` or ``sdpa``.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        axis: str,
        *,
        split_size: int = 7,
        lepe_kernel: int = 3,
        bias_size: tuple[int, int] | None = None,
        qk_scale: float | None = None,
        impl: str = "eager",
    ) -> None:
        super().__init__()
        self.dim, self.num_heads, self.axis, self.split_size = dim, num_heads, axis, split_size
        self.scale = qk_scale or (dim // num_heads) ** -0.5
        self.impl = impl
        self.lepe = DepthwiseConv(dim, lepe_kernel) if lepe_kernel else None
        self.bias_table: nn.Parameter | None = None
        if bias_size is not None:
            h, w = self.stripe(*bias_size)
            self.bias_table = nn.Parameter(
                nn.init.normal_(torch.empty(2 * h - 1, 2 * w - 1, num_heads), std=0.02)
            )

    def forward(self, qkv: Tensor) -> Tensor:
        """Map (B, H, W, 3·C), in the order q, k, v, to (B, H, W, C)."""
        H, W = qkv.shape[1:3]
        stripe = self.stripe(H, W)
        heads = qkv.unflatten(-1, (3, self.num_heads, -1))
        bias = self._bias(stripe)
        out = window_attention(heads, stripe, scale=self.scale, bias=bias, impl=self.impl)
        if self.lepe is not None:
            v = partition(pad_map(qkv[..., 2 * self.dim :], stripe), stripe)  # (B, stripes, L, C)
            local = self.lepe(v.flatten(0, 1).unflatten(1, stripe))
            out = out + merge(local.reshape(v.shape), stripe, (H, W))
        return out

    def macs(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds per image on a height × width map, by phase."""
        h, w = self.stripe(height, width)
        cost = {"attention": window_macs(height, width, (h, w), self.dim)}
        if self.lepe is not None:
            cost["local"] = self.lepe.macs(height + missing(height, h), width + missing(width, w))
        return cost

    def macs_useful(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds less those of masked padding."""
        cost = {"attention": 2 * window_pairs(height, width, self.stripe(height, width)) * self.dim}
        if self.lepe is not None:
            cost["local"] = self.lepe.macs(height, width)
        return cost

    def parameter_count(self) -> int:
        """Learned parameters: those of LePE, one per head and entry of the bias table."""
        lepe = self.lepe.parameter_count() if self.lepe is not None else 0
        if self.bias_table is None:
            return lepe
        rows, columns, heads = self.bias_table.shape
        return lepe + rows * columns * heads

    def support(self, height: int, width: int) -> Tensor:
        """(N, N) bool: tokens of one stripe."""
        return window_support(height, width, self.stripe(height, width))

    def stripe(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of a stripe on a map."""
        return (
            min(self.split_size, height) if self.axis == "horizontal" else height,
            min(self.split_size, width) if self.axis == "vertical" else width,
        )

    def _bias(self, stripe: tuple[int, int]) -> Tensor | None:
        """(heads, L, L): the table at query − key, offsets beyond it taken from its edge."""
        if self.bias_table is None:
            return None
        index = []
        for n, size in zip(stripe, self.bias_table.shape, strict=False):
            place, reach = torch.arange(n, device=self.bias_table.device), size // 2
            index.append((place[:, None] - place[None, :]).clamp(-reach, reach) + reach)
        dy, dx = index
        bias = self.bias_table[dy[:, None, :, None], dx[None, :, None, :]]  # (h, w, h, w, heads)
        return bias.flatten(2, 3).flatten(0, 1).permute(2, 0, 1)


@register_mechanism(
    "cross_shaped",
    title="Cross-shaped window",
    paper="arXiv:2107.00652",
    year=2022,
    pattern="static",
    complexity="O(N^1.5)",
    impls=("eager", "sdpa"),
    per_stage={"split_size": (1, 2, 7, 7), "last_stage": (False, False, False, True)},
    goldens=("cswin_lepe_attention", "cswin_block_attention"),
)
class CrossShapedAttention(FastestAttend, nn.Module):
    """Vertical and horizontal stripes side by side, each on half of the channels and heads.

    Cost: 4·N·C² (projection) + N·C·s·(H + W) (attention) + 9·N·C (local) MACs for stripes of width s that
    divide the map (else each direction counts its padded tokens); 2·N²·C attention with one global branch.

    Each direction takes C/2 channels and half of the heads, rounded down, at least one; where that does not
    divide C/2, the next smaller number that does. So 3 heads of 32 become one head of 48 in each direction,
    and the cost, which does not depend on the number of heads, stays.

    Args:
        site: place in the backbone; ``dim`` must be even unless there is one branch.
        split_size: stripe width s.
        last_stage: one branch with all heads that attends to the whole map; so is every block whose nominal
            map is a square of side ``split_size``.
        qkv_bias: learn a bias in the query, key and value projections.
        lepe_kernel: odd size of the depth-wise convolution of v inside each stripe; 0 for none.
        position_bias: learn a bias per head and relative position, as in the CSWin paper's comparison of
            mechanisms, which has it instead of LePE. Sized by the nominal map; offsets beyond share its edge.
        qk_scale: factor on the logits; ``None`` for head_dim^-1/2.
        impl: ``eager`` or ``sdpa``.

    Raises:
        ValueError: ``split_size`` is not positive, or ``dim`` is odd with two branches.
    """

    bare: ClassVar[dict[str, Any]] = {"position_bias": False, "lepe_kernel": 0}

    def __init__(
        self,
        site: Site,
        *,
        split_size: int = 7,
        last_stage: bool = False,
        qkv_bias: bool = True,
        lepe_kernel: int = 3,
        position_bias: bool = False,
        qk_scale: float | None = None,
        impl: str = "eager",
    ) -> None:
        super().__init__()
        self.impl = impl
        if split_size < 1:
            raise ValueError(f"split_size must be positive, got {split_size}")
        last_stage = last_stage or site.height == site.width == split_size
        if site.dim % 2 and not last_stage:
            raise ValueError(f"dim must be even to be split in two directions, got {site.dim}")
        self.dim = site.dim
        self.qkv = nn.Linear(site.dim, 3 * site.dim, bias=qkv_bias)
        self.proj = nn.Linear(site.dim, site.dim)
        axes = ("global",) if last_stage else ("vertical", "horizontal")
        dim, heads = site.dim // len(axes), max(1, site.num_heads // len(axes))
        heads = max(n for n in range(1, heads + 1) if dim % n == 0)
        self.branches = nn.ModuleList(
            StripeAttention(
                dim,
                heads,
                axis,
                split_size=split_size,
                lepe_kernel=lepe_kernel,
                bias_size=(site.height, site.width) if position_bias else None,
                qk_scale=qk_scale,
                impl=impl,
            )
            for axis in axes
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        qkv = self.qkv(x).unflatten(-1, (3, len(self.branches), -1))
        parts = [branch(qkv[..., i, :].flatten(-2)) for i, branch in enumerate(self.branches)]
        return self.proj(torch.cat(parts, dim=-1))

    def macs(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds per image on a height × width map, by phase."""
        return self._sum(height, width, [branch.macs(height, width) for branch in self._stripes()])

    def macs_useful(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds less those of masked padding."""
        return self._sum(height, width, [branch.macs_useful(height, width) for branch in self._stripes()])

    def parameter_count(self) -> int:
        """Learned parameters: 4·C² + C, 3·C for the qkv bias, LePE of each branch, the bias tables."""
        c = self.dim
        bias = 3 * c if self.qkv.bias is not None else 0
        return 4 * c**2 + c + bias + sum(branch.parameter_count() for branch in self._stripes())

    def support(self, height: int, width: int) -> Tensor:
        """(N, N) bool: tokens that share a stripe of either direction."""
        reached = [branch.support(height, width) for branch in self._stripes()]
        return torch.stack(reached).any(0)

    def _sum(self, height: int, width: int, branches: list[dict[str, int]]) -> dict[str, int]:
        cost = Counter({"projection": 4 * height * width * self.dim**2})
        for branch in branches:
            cost.update(branch)
        return dict(cost)

    def _stripes(self) -> list[StripeAttention]:
        return [branch for branch in self.branches if isinstance(branch, StripeAttention)]

    @staticmethod
    def full_attention_limit(height: int, width: int) -> dict[str, Any]:
        """Options under which this is full attention on a height × width map."""
        return {"last_stage": True, "lepe_kernel": 0}

    @classmethod
    def from_official(cls, case: dict[str, Any], impl: str = "eager") -> tuple[nn.Module, dict[str, str]]:
        """Official ``LePEAttention`` (one direction, on q, k, v) and the attention of ``CSWinBlock``."""
        kwargs = case["kwargs"]
        _, H, W, C = case["input_shape"]
        ignored(kwargs, "proj_drop", "mlp_ratio")  # constructed, but not applied; not part of the attention
        split_size, scale = kwargs.get("split_size", 7), kwargs.get("qk_scale") or None
        if case["cls"].endswith("LePEAttention"):
            only(kwargs, dim=C // 3, dim_out=None, resolution=H, attn_drop=0.0)
            if H != W:
                raise ValueError(f"the official LePEAttention takes square maps, got {H} x {W}")
            axis = {-1: "global", 0: "vertical", 1: "horizontal"}[kwargs["idx"]]
            heads = kwargs.get("num_heads", 8)
            branch = StripeAttention(C // 3, heads, axis, split_size=split_size, qk_scale=scale, impl=impl)
            return branch, {"get_v.": "lepe."}
        only(kwargs, dim=C, reso=H, drop=0.0, drop_path=0.0, **NO_DROPOUT)
        if H != W:
            raise ValueError(f"the official CSWinBlock takes square maps, got {H} x {W}")
        module = cls(
            Site(C, kwargs["num_heads"], H, W),
            split_size=split_size,
            last_stage=kwargs.get("last_stage", False),
            qkv_bias=kwargs.get("qkv_bias", False),
            qk_scale=scale,
            impl=impl,
        )
        return module, {f"attns.{i}.get_v.": f"branches.{i}.lepe." for i in range(2)}
