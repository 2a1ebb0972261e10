"""The module around :mod:`_neighborhood`: projections, position bias, choice of implementation, cost."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnbench.backends import natten_na2d
from attnbench.errors import ImplementationError
from attnbench.mechanisms._flex import block_mask, flex_attention
from attnbench.mechanisms._neighborhood import Axis, Tables, gathered, slot_tables, tile_tables, tiled
from attnbench.registry import Site

IMPLEMENTATIONS = {"eager": (gathered, slot_tables), "tiled": (tiled, tile_tables)}


class WindowPerQuery(nn.Module):
    """Multi-head self-attention in which each query has its own K × K window.

    Cost: 4·N·C² (projection) + 2·N·K²·C (attention) MACs.

    Args:
        site: place in the backbone.
        kernel_size: side K of the window; odd.
        dilation: distance between neighbouring keys.
        inward: at a border the window moves inwards (True) or loses what lies outside (False).
        qkv_bias: learn a bias in the query, key and value projections.
        position_bias: learn a bias per head and offset of the key from the query.
        padding: ``masked`` (there is none) or ``official`` (a map smaller than K · dilation is zero-padded
            to it before the projections, and padding takes part in attention).
        qk_scale: factor on the logits; None for head_dim^-1/2.
        impl: ``eager``, ``tiled``, ``natten`` or ``flex`` (no gradients on a CPU).

    Raises:
        ValueError: ``kernel_size`` is not odd and positive, ``dilation`` is not positive, or ``padding`` or
            ``impl`` is unknown.
        ImplementationError: ``impl`` cannot run here.
    """

    bare: ClassVar[dict[str, Any]] = {"position_bias": False}

    def __init__(
        self,
        site: Site,
        *,
        kernel_size: int,
        dilation: int = 1,
        inward: bool = True,
        qkv_bias: bool = True,
        position_bias: bool = True,
        padding: str = "masked",
        qk_scale: float | None = None,
        impl: str = "eager",
    ) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and positive, got {kernel_size}")
        if dilation < 1:
            raise ValueError(f"dilation must be positive, got {dilation}")
        if padding not in ("masked", "official"):
            raise ValueError(f"padding must be 'masked' or 'official', got {padding!r}")
        known = [*IMPLEMENTATIONS, "natten", "flex"]
        if impl not in known:
            raise ValueError(f"impl must be one of {known}, got {impl!r}")
        if impl == "natten" and position_bias:
            raise ImplementationError(
                "implementation 'natten' has no position bias, since natten.na2d takes none; "
                "use position_bias=False, or impl='tiled'"
            )
        self.na2d = natten_na2d() if impl == "natten" else None
        self.dim, self.num_heads = site.dim, site.num_heads
        self.kernel_size, self.dilation, self.inward = kernel_size, dilation, inward
        self.padding, self.impl = padding, impl
        self.scale = qk_scale or site.head_dim**-0.5
        self.qkv = nn.Linear(self.dim, 3 * self.dim, bias=qkv_bias)
        self.proj = nn.Linear(self.dim, self.dim)
        self.bias_table: nn.Parameter | None = None
        self.size = (site.height, site.width)
        rows, columns = self.axes(*self.size)
        if position_bias:
            side = 2 * rows.reach + 1
            self.bias_table = nn.Parameter(nn.init.normal_(torch.empty(self.num_heads, side, side), std=0.02))
        if impl in IMPLEMENTATIONS:
            self.index: Tensor
            self.entry_y: Tensor
            self.entry_x: Tensor
            tables = IMPLEMENTATIONS[impl][1](rows, columns)
            for name, value in zip(("index", "entry_y", "entry_x"), tables, strict=True):
                self.register_buffer(name, value, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        _, H, W, _ = x.shape
        rows, columns = self.axes(H, W)
        if (rows.length, columns.length) != (H, W):
            x = F.pad(x, (0, 0, 0, columns.length - W, 0, rows.length - H))
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))
        out = self._attention(qkv, rows, columns, nominal=self.size == (H, W))
        return self.proj(out[:, :H, :W])

    def macs(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds per image on a height × width map, by phase, as the definition issues them."""
        rows, columns = self.axes(height, width)
        n, padded, c = height * width, rows.length * columns.length, self.dim
        return {
            "projection": (3 * padded + n) * c**2,
            "attention": 2 * padded * rows.slots * columns.slots * c,
        }

    def macs_useful(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds less those of keys that do not exist."""
        rows, columns = (int(axis.support().sum()) for axis in self.axes(height, width))
        return {**self.macs(height, width), "attention": 2 * rows * columns * self.dim}

    def parameter_count(self) -> int:
        """Learned parameters: 4·C² + C, 3·C for the qkv bias, (2·reach + 1)²·heads for the position bias."""
        c, side = self.dim, 2 * self.axes(1, 1)[0].reach + 1
        table = side**2 * self.num_heads if self.bias_table is not None else 0
        return 4 * c**2 + c + (3 * c if self.qkv.bias is not None else 0) + table

    def support(self, height: int, width: int) -> Tensor:
        """(N, N) bool: output token i depends on input token j of its window."""
        rows, columns = (axis.support() for axis in self.axes(height, width))
        near = rows[:height, None, :height, None] & columns[None, :width, None, :width]
        return near.reshape(height * width, height * width)

    def axes(self, height: int, width: int) -> tuple[Axis, Axis]:
        """Windows along H and along W; longer than the map where official padding enlarges it."""
        least = self.kernel_size * self.dilation if self.padding == "official" else 1
        return (
            Axis(max(height, least), self.kernel_size, self.dilation, self.inward),
            Axis(max(width, least), self.kernel_size, self.dilation, self.inward),
        )

    def _attention(self, qkv: Tensor, rows: Axis, columns: Axis, nominal: bool) -> Tensor:
        """(B, H, W, 3, heads, d) to (B, H, W, C)."""
        if self.na2d is not None:
            least = self.kernel_size * self.dilation
            if min(rows.length, columns.length) < least:
                raise ImplementationError(
                    f"implementation 'natten' needs a map of at least kernel_size · dilation = {least} "
                    f"tokens a side, got {rows.length} × {columns.length}; use impl='tiled'"
                )
            on_cpu = qkv.device.type == "cpu"
            if on_cpu and (qkv.dtype == torch.float64 or (torch.is_grad_enabled() and qkv.requires_grad)):
                raise ImplementationError(
                    "implementation 'natten' cannot run here: on a CPU it has neither gradients nor float64; "
                    "use impl='tiled'"
                )
            q, k, v = qkv.unbind(3)
            out = self.na2d(q, k, v, kernel_size=self.kernel_size, dilation=self.dilation, scale=self.scale)
            return out.flatten(-2)
        if self.impl == "flex":
            return self._flex(qkv, rows, columns)
        function, make_tables = IMPLEMENTATIONS[self.impl]
        tables: Tables = self.index, self.entry_y, self.entry_x
        if not nominal:
            tables = make_tables(rows, columns, qkv.device)
        return function(qkv, rows, columns, tables, scale=self.scale, bias_table=self.bias_table)

    def _flex(self, qkv: Tensor, rows: Axis, columns: Axis) -> Tensor:
        """The same by FlexAttention over all tokens, less the blocks of pairs that no window holds."""
        _, H, W, _, _, _ = qkv.shape
        y, x = rows.pair_table(qkv.device), columns.pair_table(qkv.device)
        last_y, last_x, table = 2 * rows.reach, 2 * columns.reach, self.bias_table
        biases = qkv.new_zeros(()) if table is None else table.to(qkv.dtype)

        def visible(image: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return (y[query // W, key // W] <= last_y) & (x[query % W, key % W] <= last_x)

        def score(logit: Tensor, image: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            entry_y = y[query // W, key // W].clamp(max=last_y)  # of masked pairs too, whose value is unused
            return logit + biases[head, entry_y, x[query % W, key % W].clamp(max=last_x)]

        q, k, v = qkv.permute(3, 0, 4, 1, 2, 5).flatten(3, 4)  # each (B, heads, N, d)
        blocks = block_mask(self, (H, W, qkv.device), H * W, qkv.device, visible)
        rule = None if table is None else score
        out = flex_attention(q, k, v, scale=self.scale, score=rule, blocks=blocks)
        return out.permute(0, 2, 1, 3).reshape(qkv.shape[0], H, W, -1)
