"""Shifted-window attention: windows of tokens attend within themselves; every second block shifts them.

Paper: Liu et al., 2021, "Swin Transformer", arXiv:2103.14030.
Code: written from the paper; equal to timm's ``swin_transformer``, whose treatment of padding is the
option ``padding="official"``.
Differs from the paper by default: padding is masked, and the projections run on real tokens only.
"""

from collections import Counter
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from attnbench.implementations import resolve
from attnbench.mechanisms._attend import attend_stacked, fastest
from attnbench.mechanisms._official import NO_DROPOUT, ignored, only
from attnbench.mechanisms._windows import (
    pad_map,
    partition,
    relative_position_index,
    same_label,
)
from attnbench.mechanisms._windows import (
    padding as missing,
)
from attnbench.registry import Site, register_mechanism
from attnbench.scaling_rules import Rule


def _roll(x: Tensor, shift: tuple[int, int]) -> Tensor:
    """Roll (B, H, W, C) along H and W; no copy where there is nothing to roll."""
    return torch.roll(x, shift, (1, 2)) if any(shift) else x


@register_mechanism(
    "shifted_window",
    title="Shifted window",
    paper="arXiv:2103.14030",
    year=2021,
    pattern="static",
    complexity="O(N)",
    impls=("eager", "sdpa", "flex"),
    per_stage={"window_size": 7},
    goldens=("swin_window",),
)
class ShiftedWindowAttention(nn.Module):
    """Attention inside non-overlapping windows with a relative position bias.

    A window larger than the map shrinks to it and is not shifted along that axis.
    Cost: 4·N·C² (projection) + 2·N'·w²·C (attention) MACs, N' = tokens after padding to whole windows
    (with ``padding="official"`` the projections cost 4·N'·C²).

    Args:
        site: place in the backbone; odd blocks are shifted.
        window_size: side of the window, or (height, width).
        shift_size: tokens to shift by; ``None`` for half a window in odd blocks and 0 in even ones.
        qkv_bias: learn a bias in the query, key and value projections.
        position_bias: learn a bias per head and relative position.
        head_dim: channels of a head if not C / heads.
        always_partition: keep window and shift on a map smaller than the window.
        padding: ``masked`` (padding is never attended to) or ``official`` (timm: the map is rolled, then
            zero-padded before the projections, and padding takes part in attention).
        impl: ``eager``, ``sdpa`` or ``flex`` (no gradients on a CPU).

    Raises:
        ValueError: the window is not positive, the shift is not smaller than it, or ``padding`` is unknown.
    """

    bare: ClassVar[dict[str, Any]] = {"position_bias": False}

    growth: ClassVar[tuple[Rule, ...]] = (
        Rule("", "window of 7 × 7 fixed"),
        Rule(
            "scaled",
            "window of an eighth of the map",
            lambda site, defaults: {"window_size": max(1, -(-site.height // 8))},
            2.0,
        ),
    )

    def __init__(
        self,
        site: Site,
        *,
        window_size: int | tuple[int, int] = 7,
        shift_size: int | None = None,
        qkv_bias: bool = True,
        position_bias: bool = True,
        head_dim: int | None = None,
        always_partition: bool = False,
        padding: str = "masked",
        impl: str = "eager",
    ) -> None:
        super().__init__()
        window = (window_size, window_size) if isinstance(window_size, int) else window_size
        shift = min(window) // 2 * (site.block % 2) if shift_size is None else shift_size
        if min(window) < 1 or not 0 <= shift < max(window):
            raise ValueError(
                f"window_size must be positive and shift_size in [0, window), got {window}, {shift}"
            )
        if padding not in ("masked", "official"):
            raise ValueError(f"padding must be 'masked' or 'official', got {padding!r}")
        self.dim, self.num_heads = site.dim, site.num_heads
        self.head_dim = head_dim or site.head_dim
        self.inner = self.num_heads * self.head_dim  # channels of q, k and v
        self.window, self.shift, self.padding, self.impl = window, shift, padding, impl
        self.always_partition = always_partition
        self.qkv = nn.Linear(self.dim, 3 * self.inner, bias=qkv_bias)
        self.proj = nn.Linear(self.inner, self.dim)
        self.bias_table: nn.Parameter | None = None
        if position_bias:
            rows = (2 * window[0] - 1) * (2 * window[1] - 1)
            self.bias_table = nn.Parameter(nn.init.normal_(torch.empty(rows, self.num_heads), std=0.02))
        self.size = (site.height, site.width)
        self.mask: Tensor | None
        self.register_buffer("mask", self._mask(*self.size), persistent=False)
        self.index: Tensor
        nominal, _ = self._effective(*self.size)
        self.register_buffer("index", relative_position_index(nominal, self.window), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        B, H, W, _ = x.shape
        window, shift = self._effective(H, W)
        rows, columns = (-(-n // w) for n, w in zip((H, W), window, strict=True))
        whole = (rows * window[0], columns * window[1]) == (H, W)
        x = _roll(x, (-shift[0], -shift[1]))
        if self.padding == "official" or whole:  # the narrow map is cut, before its projection trebles it
            tokens = self.qkv(partition(pad_map(x, window), window))
        else:
            tokens = partition(pad_map(self.qkv(x), window), window)  # (B, windows, L, 3·C)
        qkv = tokens.unflatten(-1, (3, self.num_heads, -1)).permute(3, 0, 1, 4, 2, 5)
        impl, bias = resolve(self, qkv, H, W), self._bias(H, W, qkv)
        if impl == "flex":  # it knows four axes and one bias for all images, so windows and heads share one
            qkv = qkv.flatten(2, 3)
            if bias is not None:
                bias = bias.expand(rows * columns, -1, -1, -1).flatten(0, 1)
        out = attend_stacked(qkv, scale=self.head_dim**-0.5, bias=bias, impl=impl)
        # Windows and heads back to the map in one copy.
        out = out.reshape(B, rows, columns, self.num_heads, *window, -1).permute(0, 1, 4, 2, 5, 3, 6)
        out = out.reshape(B, rows * window[0], columns * window[1], -1)
        if self.padding == "official":
            return _roll(self.proj(out)[:, :H, :W], shift)
        return self.proj(_roll(out[:, :H, :W], shift))

    def implementation(
        self, device: torch.device, dtype: torch.dtype, height: int, width: int, training: bool
    ) -> str:
        """``sdpa`` or ``eager``, whatever the map."""
        return fastest(device, dtype, training)

    def macs(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds per image on a height × width map, by phase."""
        (h, w), _ = self._effective(height, width)
        n, padded = height * width, (height + missing(height, h)) * (width + missing(width, w))
        projected = padded if self.padding == "official" else n
        return {
            "projection": 4 * projected * self.dim * self.inner,
            "attention": 2 * padded * h * w * self.inner,
        }

    def macs_useful(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds less those of pairs that the mask cuts: across a shifted border, or with padding."""
        pairs = 1
        for n, w, s in zip((height, width), *self._effective(height, width), strict=True):
            sides = self._sides(n, w, s).tolist()
            groups = Counter((place // w, side) for place, side in enumerate(sides) if side < 2)
            pairs *= sum(tokens**2 for tokens in groups.values())
        return {**self.macs(height, width), "attention": 2 * pairs * self.dim}

    def parameter_count(self) -> int:
        """Learned parameters: 4·C² + C, 3·C for the qkv bias, (2w−1)²·heads for the position bias."""
        c, a, (h, w) = self.dim, self.inner, self.window
        table = (2 * h - 1) * (2 * w - 1) * self.num_heads if self.bias_table is not None else 0
        return 4 * c * a + c + (3 * a if self.qkv.bias is not None else 0) + table

    def support(self, height: int, width: int) -> Tensor:
        """(N, N) bool: output token i depends on input token j of its window and its side of the roll."""
        window, shift = self._effective(height, width)
        rows, columns = (
            torch.arange(n).sub(s).remainder(n).div(w, rounding_mode="floor") * 3
            + self._sides(n, w, s)[torch.arange(n).sub(s).remainder(n)]
            for n, w, s in zip((height, width), window, shift, strict=True)
        )
        return same_label((rows[:, None] * 3 * width + columns[None, :]).flatten())

    def _effective(self, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Window and shift on a map: an axis no longer than the window is one unshifted window."""
        if self.always_partition:
            return self.window, (self.shift, self.shift)
        window = min(self.window[0], height), min(self.window[1], width)
        shift = self.shift * (height > window[0]), self.shift * (width > window[1])
        return window, shift

    def _sides(self, size: int, window: int, shift: int) -> Tensor:
        """Side of each place of a rolled, padded axis: 0 real, 1 wrapped round by the roll, 2 padding."""
        padded = size + missing(size, window)
        place = torch.arange(padded)
        if self.padding == "official":  # timm draws the border on the padded map and knows no padding
            return (place >= padded - shift).long()
        return (place >= size - shift).long() + (place >= size).long()

    def _mask(self, height: int, width: int) -> Tensor | None:
        """(windows, L, L), −inf where attention is cut (timm: −100), or None where nothing is."""
        window, shift = self._effective(height, width)
        padded = any(missing(n, w) for n, w in zip((height, width), window, strict=True))
        if not any(shift) and (self.padding == "official" or not padded):
            return None
        rows, columns = (self._sides(n, w, s) for n, w, s in zip((height, width), window, shift, strict=True))
        # A padding query, whose output is cropped, attends to its like: its softmax stays finite.
        side = partition((rows[:, None] * 3 + columns[None, :])[..., None], window)[..., 0]
        cut = side[:, :, None] != side[:, None, :]
        minus = -100.0 if self.padding == "official" else float("-inf")
        return torch.zeros_like(cut, dtype=torch.float32).masked_fill(cut, minus)

    def _bias(self, height: int, width: int, like: Tensor) -> Tensor | None:
        """Position bias plus mask (windows or 1, heads, L, L), in dtype of ``like``; None without either."""
        window, _ = self._effective(height, width)
        bias: Tensor | None = None
        if self.bias_table is not None:
            index = self.index
            if window != self._effective(*self.size)[0]:
                index = relative_position_index(window, self.window).to(like.device)
            L = index.shape[0]
            # Heads first, and the small table cast instead of what is read from it: contiguous, in one pass.
            table = self.bias_table.t().to(like.dtype)
            bias = table.index_select(1, index.flatten()).view(1, self.num_heads, L, L)
        mask = self.mask if (height, width) == self.size else self._mask(height, width)
        if mask is None:
            return bias
        mask = mask.to(like)[:, None]  # (windows, 1, L, L)
        return mask.expand(-1, self.num_heads, -1, -1) if bias is None else bias + mask

    @staticmethod
    def full_attention_limit(height: int, width: int) -> dict[str, Any]:
        """Options under which this is full attention on a height × width map."""
        return {"window_size": max(height, width), "position_bias": False}

    @classmethod
    def from_official(cls, case: dict[str, Any], impl: str = "eager") -> tuple[nn.Module, dict[str, str]]:
        """timm's ``SwinTransformerBlock._attn``, which shrinks window and table to the map."""
        kwargs = case["kwargs"]
        _, H, W, C = case["input_shape"]
        only(kwargs, dim=C, input_resolution=[H, W], drop_path=0.0, **NO_DROPOUT)
        ignored(kwargs, "mlp_ratio", "dynamic_mask")
        size = kwargs["window_size"]
        window = (size, size) if isinstance(size, int) else tuple(size)
        whole = kwargs.get("always_partition", False)
        h, w = (s if whole else min(s, n) for s, n in zip(window, (H, W), strict=True))
        module = cls(
            Site(C, kwargs["num_heads"], H, W),
            window_size=(h, w),
            shift_size=kwargs.get("shift_size", 0),
            qkv_bias=kwargs.get("qkv_bias", True),
            head_dim=kwargs.get("head_dim"),
            always_partition=whole,
            padding="official",
            impl=impl,
        )
        return module, {"attn.relative_position_bias_table": "bias_table", "attn.": ""}
