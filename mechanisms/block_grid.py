"""Block and grid attention: blocks alternate between windows and sparse grids that span the map.

Paper: Tu et al., 2022, "MaxViT: Multi-Axis Vision Transformer", arXiv:2204.01697.
Code: written from the paper; equal to timm's ``maxxvit`` and to BiFormer's copy, whose treatment of padding
is the option ``padding="official"``.
Differs from the paper: attention only (no MBConv), one partition per block as in BiFormer's ablation; by
default padding is masked, and the projections run on real tokens only.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnbench.mechanisms._attend import FastestAttend
from attnbench.mechanisms._official import NO_DROPOUT, only
from attnbench.mechanisms._window_attention import (
    window_attention,
    window_macs,
    window_pairs,
    window_support,
)
from attnbench.mechanisms._windows import padding as missing
from attnbench.mechanisms._windows import relative_position_index
from attnbench.registry import Site, register_mechanism


@register_mechanism(
    "block_grid",
    title="Block/grid",
    paper="arXiv:2204.01697",
    year=2022,
    pattern="static",
    complexity="O(N)",
    impls=("eager", "sdpa"),
    per_stage={"window_size": 7},
    goldens=("maxvit_partition",),
)
class BlockGridAttention(FastestAttend, nn.Module):
    """Attention inside w × w windows (block) or among w × w tokens spread evenly over the map (grid).

    In a grid, tokens of one group lie ceil(H/w) rows and ceil(W/w) columns apart. An axis no longer than
    the window is one window.
    Cost: 4·N·C² (projection) + 2·N'·w²·C (attention) MACs, N' = tokens after padding to multiples of w
    (with ``padding="official"`` the projections cost 4·N'·C²).

    Args:
        site: place in the backbone; odd blocks are grid blocks.
        window_size: side of window and grid, or (height, width).
        kind: ``block`` or ``grid``; ``None`` for block in even blocks and grid in odd ones.
        qkv_bias: learn a bias in the query, key and value projections.
        proj_bias: learn a bias in the output projection.
        position_bias: learn a bias per head and relative position.
        bias_form: ``tf``, a table (heads, 2h−1, 2w−1) of key − query as in the paper's TensorFlow code, or
            ``swin``, a table ((2h−1)(2w−1), heads) of query − key.
        head_first: order of the channels of the fused projection: (heads, qkv, d) instead of (qkv, heads, d).
        padding: ``masked`` (padding is never attended to) or ``official`` (BiFormer: the map is zero-padded
            before the projections, and padding takes part in attention).
        impl: ``eager`` or ``sdpa``.

    Raises:
        ValueError: the window is not positive, or ``kind``, ``bias_form`` or ``padding`` is unknown.
    """

    bare: ClassVar[dict[str, Any]] = {"position_bias": False}

    def __init__(
        self,
        site: Site,
        *,
        window_size: int | tuple[int, int] = 7,
        kind: str | None = None,
        qkv_bias: bool = True,
        proj_bias: bool = True,
        position_bias: bool = True,
        bias_form: str = "tf",
        head_first: bool = False,
        padding: str = "masked",
        impl: str = "eager",
    ) -> None:
        super().__init__()
        h, w = (window_size, window_size) if isinstance(window_size, int) else window_size
        if min(h, w) < 1:
            raise ValueError(f"window_size must be positive, got {window_size}")
        for name, value, known in (
            ("kind", kind, (None, "block", "grid")),
            ("bias_form", bias_form, ("tf", "swin")),
            ("padding", padding, ("masked", "official")),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {known}, got {value!r}")
        self.dim, self.num_heads, self.head_dim = site.dim, site.num_heads, site.head_dim
        self.window, self.padding, self.impl = (h, w), padding, impl
        self.grid = bool(site.block % 2) if kind is None else kind == "grid"
        self.bias_form, self.head_first = bias_form, head_first
        self.qkv = nn.Linear(self.dim, 3 * self.dim, bias=qkv_bias)
        self.proj = nn.Linear(self.dim, self.dim, bias=proj_bias)
        self.bias_table: nn.Parameter | None = None
        if position_bias:
            shape: tuple[int, ...] = (self.num_heads, 2 * h - 1, 2 * w - 1)
            if bias_form == "swin":
                shape = ((2 * h - 1) * (2 * w - 1), self.num_heads)
            self.bias_table = nn.Parameter(nn.init.normal_(torch.empty(shape), std=0.02))
        self.index: Tensor
        self.register_buffer("index", relative_position_index(self.window), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        H, W = x.shape[1:3]
        if self.padding == "official":
            rows, columns = self._padded(H, W)
            x = F.pad(x, (0, 0, 0, columns - W, 0, rows - H))
        qkv = self.qkv(x)
        if self.head_first:
            qkv = qkv.unflatten(-1, (self.num_heads, 3, -1)).transpose(-3, -2)
        else:
            qkv = qkv.unflatten(-1, (3, self.num_heads, -1))
        window = self._window(H, W)
        out = window_attention(
            qkv,
            window,
            scale=self.head_dim**-0.5,
            bias=self._bias(window),
            grid=self.grid,
            impl=self.impl,
        )
        return self.proj(out)[:, :H, :W]

    def macs(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds per image on a height × width map, by phase."""
        rows, columns = self._padded(height, width)
        projected = rows * columns if self.padding == "official" else height * width
        return {
            "projection": 4 * projected * self.dim**2,
            "attention": window_macs(rows, columns, self._window(height, width), self.dim),
        }

    def macs_useful(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds less those of masked padding."""
        cost = self.macs(height, width)
        if self.padding == "masked":
            pairs = window_pairs(height, width, self._window(height, width), self.grid)
            cost["attention"] = 2 * pairs * self.dim
        return cost

    def parameter_count(self) -> int:
        """Learned parameters: 4·C², 3·C and C for the two biases, (2w−1)²·heads for the position bias."""
        c, (h, w) = self.dim, self.window
        table = (2 * h - 1) * (2 * w - 1) * self.num_heads if self.bias_table is not None else 0
        biases = 3 * c * (self.qkv.bias is not None) + c * (self.proj.bias is not None)
        return 4 * c**2 + biases + table

    def support(self, height: int, width: int) -> Tensor:
        """(N, N) bool: tokens of one window, or of one grid."""
        rows, columns = self._padded(height, width)
        whole = window_support(rows, columns, self._window(height, width), self.grid)
        real = (torch.arange(rows)[:, None] < height) & (torch.arange(columns)[None, :] < width)
        return whole[real.flatten()][:, real.flatten()]

    def _window(self, height: int, width: int) -> tuple[int, int]:
        h, w = self.window
        return (h, w) if self.padding == "official" else (min(h, height), min(w, width))

    def _padded(self, height: int, width: int) -> tuple[int, int]:
        """Size of the map after padding."""
        h, w = self._window(height, width)
        if self.padding == "official":
            # BiFormer's helper reads only the window's height; where that is not enough, its code stops.
            width += missing(width, h)
        return height + missing(height, h), width + missing(width, w)

    def _bias(self, window: tuple[int, int]) -> Tensor | None:
        """(heads, L, L), the bias of each head for each query and key of a window."""
        if self.bias_table is None:
            return None
        index = self.index
        if window != self.window:
            index = relative_position_index(window, self.window).to(index.device)
        if self.bias_form == "tf":  # key − query: the table read with the roles exchanged
            table, index = self.bias_table.flatten(1), index.t()
        else:
            table = self.bias_table.t()
        L = index.shape[0]
        return table.index_select(1, index.flatten()).unflatten(1, (L, L))

    @staticmethod
    def full_attention_limit(height: int, width: int) -> dict[str, Any]:
        """Options under which this is full attention on a height × width map."""
        return {"window_size": max(height, width), "position_bias": False}

    @classmethod
    def from_official(cls, case: dict[str, Any], impl: str = "eager") -> tuple[nn.Module, dict[str, str]]:
        """Attention of timm's ``PartitionAttention2d`` and ``PartitionAttentionCl``, and BiFormer's copy."""
        kwargs = case["kwargs"]
        _, H, W, C = case["input_shape"]
        only(kwargs, dim=C, **NO_DROPOUT)
        bias, form = kwargs.get("attn_bias", True), kwargs.get("rel_pos_type", "bias")
        forms = {"bias_tf": "tf", "bias": "swin", None: "swin", "": "swin"}
        if form not in forms:
            raise ValueError(f"rel_pos_type must be one of {tuple(forms)}, got {form!r}")
        size = kwargs["window_or_grid"]
        module = cls(
            Site(C, C // kwargs.get("dim_head", 32), H, W),
            window_size=size if isinstance(size, int) else tuple(size),
            kind=kwargs.get("partition_type", "block"),
            qkv_bias=bias,
            proj_bias=bias,
            position_bias=bool(form),
            bias_form=forms[form],
            head_first=kwargs.get("head_first", True),
            padding="official" if kwargs.get("auto_pad") else "masked",
            impl=impl,
        )
        return module, {"attn.rel_pos.relative_position_bias_table": "bias_table", "attn.": ""}
