"""Long-short distance attention: blocks alternate between adjacent tokens and tokens a fixed interval apart.

Paper: Wang et al., 2022, "CrossFormer: A Versatile Vision Transformer Hinging on Cross-scale Attention",
arXiv:2108.00154.
Code: written from the paper; maps larger than group_size · interval are cut into squares of that side, as in
the official detection code; equal to the official block between its norm and its residual.
Settings: groups of 7 × 7 and intervals 8, 4, 2, 1 of CrossFormer-S.
Differs from the official code by default: a group never spans more than the map needs along each axis;
officially, ``padding="official"``, a map whose shorter side fits into one group is cut into squares of that
side, adjacent tokens in every block. Padding is masked with −inf; projections run on real tokens only.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from attnbench.mechanisms._attend import FastestAttend, attend_stacked
from attnbench.mechanisms._official import NO_DROPOUT, ignored, only
from attnbench.mechanisms._windows import pad_map, relative_position_index, same_label
from attnbench.mechanisms._windows import padding as missing
from attnbench.registry import Site, register_mechanism


class DynamicPositionBias(nn.Module):
    """A small network from relative position to a bias per head, which serves groups of any size.

    Three times LayerNorm, ReLU and linear layer after a first linear layer, of width p = max(1, C / 16).
    Cost: (2h−1)(2w−1)·(2·p + 2·p² + p·heads) MACs for groups of h × w.

    Args:
        dim: channels C of the map.
        num_heads: heads.
        group: rows and columns of the groups that are expected; others are served too, but slower.
    """

    def __init__(self, dim: int, num_heads: int, group: tuple[int, int]) -> None:
        super().__init__()
        self.hidden, self.num_heads = max(1, dim // 16), num_heads
        layers: list[nn.Module] = [nn.Linear(2, self.hidden)]
        for width in (self.hidden, self.hidden, num_heads):
            layers += [nn.LayerNorm(self.hidden), nn.ReLU(), nn.Linear(self.hidden, width)]
        self.layers = nn.Sequential(*layers)
        # Kept, since on a map of 7 x 7 their dozen small operators cost as much as a projection.
        self.group = group
        self.offsets: Tensor
        self.register_buffer("offsets", _offsets(group), persistent=False)
        self.index: Tensor
        self.register_buffer("index", relative_position_index(group), persistent=False)

    def forward(self, group: tuple[int, int], like: Tensor) -> Tensor:
        """(heads, L, L) bias of each query and key of a group of h × w = L tokens, in dtype of ``like``."""
        offsets, index = self.offsets, self.index
        if group != self.group:
            offsets, index = (t.to(like.device) for t in (_offsets(group), relative_position_index(group)))
        L = index.shape[0]
        # Heads first, so that what is added to the logits is contiguous.
        return self.layers(offsets.to(like.dtype)).t().index_select(1, index.flatten()).unflatten(1, (L, L))

    def macs(self, group: tuple[int, int]) -> int:
        """Multiply-adds for groups of h × w tokens."""
        offsets = (2 * group[0] - 1) * (2 * group[1] - 1)
        return offsets * (2 * self.hidden + 2 * self.hidden**2 + self.hidden * self.num_heads)

    def parameter_count(self) -> int:
        """3·p + 2·(p² + p) + (p + 1)·heads, and 6·p of the norms."""
        p = self.hidden
        return 3 * p + 2 * (p**2 + p) + (p + 1) * self.num_heads + 6 * p


def _offsets(group: tuple[int, int]) -> Tensor:
    """((2h−1)(2w−1), 2) relative positions, row by row."""
    y, x = (torch.arange(1.0 - n, n) for n in group)
    return torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).flatten(0, 1)


@register_mechanism(
    "long_short_distance",
    title="Long-short distance",
    paper="arXiv:2108.00154",
    year=2022,
    pattern="static",
    complexity="O(N)",
    impls=("eager", "sdpa"),
    per_stage={"group_size": 7, "interval": (8, 4, 2, 1)},
    goldens=("crossformer_lsda",),
)
class LongShortDistanceAttention(FastestAttend, nn.Module):
    """Attention inside groups of G × G tokens that are adjacent (SDA) or ``interval`` apart (LDA).

    LDA cuts the map into squares of side G·I; tokens of a square whose row and column leave the same
    remainders modulo I form a group. SDA is the same with I = 1. Along an axis of n tokens I is at most n and
    G at most ⌈n/I⌉.
    Cost: 4·N·C² (projection) + 2·N'·G²·C (attention) + the cost of the position bias, which does not depend
    on N (position), MACs; N' = tokens after padding to whole squares.

    Args:
        site: place in the backbone; odd blocks are long distance.
        group_size: side G of a group.
        interval: I, the distance of neighbours in a long-distance group.
        kind: ``sda`` or ``lda``; ``None`` for SDA in even blocks and LDA in odd ones.
        qkv_bias: learn a bias in the query, key and value projections.
        position_bias: add the dynamic position bias.
        qk_scale: factor on the logits; ``None`` for head_dim^-1/2.
        padding: ``masked`` (as above) or ``official`` (a map with a side of at most G tokens is cut into
            squares of its shorter side, and LDA becomes SDA there). Padding is never attended to in either.
        impl: ``eager`` or ``sdpa``.

    Raises:
        ValueError: ``group_size`` or ``interval`` is not positive, or ``kind`` or ``padding`` is unknown.
    """

    bare: ClassVar[dict[str, Any]] = {"position_bias": False}

    def __init__(
        self,
        site: Site,
        *,
        group_size: int = 7,
        interval: int = 1,
        kind: str | None = None,
        qkv_bias: bool = True,
        position_bias: bool = True,
        qk_scale: float | None = None,
        padding: str = "masked",
        impl: str = "eager",
    ) -> None:
        super().__init__()
        kind = ("sda", "lda")[site.block % 2] if kind is None else kind
        if kind not in ("sda", "lda"):
            raise ValueError(f"kind must be 'sda', 'lda' or None, got {kind!r}")
        if padding not in ("masked", "official"):
            raise ValueError(f"padding must be 'masked' or 'official', got {padding!r}")
        if group_size < 1 or interval < 1:
            raise ValueError(f"group_size and interval must be positive, got {group_size} and {interval}")
        self.dim, self.num_heads, self.padding = site.dim, site.num_heads, padding
        self.scale = site.head_dim**-0.5 if qk_scale is None else qk_scale
        self.group_size, self.interval, self.impl = group_size, interval if kind == "lda" else 1, impl
        self.qkv = nn.Linear(self.dim, 3 * self.dim, bias=qkv_bias)
        (rows, _), (columns, _) = self._plan(site.height, site.width)
        self.position = (
            DynamicPositionBias(self.dim, self.num_heads, (rows, columns)) if position_bias else None
        )
        self.proj = nn.Linear(self.dim, self.dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        B, H, W, _ = x.shape
        (gh, ih), (gw, iw) = self._plan(H, W)
        whole = not missing(H, gh * ih) and not missing(W, gw * iw)
        # The narrow map is cut before its projection trebles it, unless that would project padding.
        cut = _cut(x if whole else pad_map(self.qkv(x), (gh * ih, gw * iw)), (gh, gw), (ih, iw))
        rows, columns = cut.shape[1], cut.shape[4]
        # Axes of cut: image, square row, row in group, remainder, the same of columns, channel.
        groups = rows * ih * columns * iw
        tokens = cut.permute(0, 1, 3, 4, 6, 2, 5, 7).reshape(B, groups, gh * gw, -1)
        tokens = self.qkv(tokens) if whole else tokens
        qkv = tokens.unflatten(-1, (3, self.num_heads, -1)).permute(3, 0, 1, 4, 2, 5)
        out = attend_stacked(qkv, scale=self.scale, bias=self._bias(H, W, qkv), impl=self.impl)
        out = out.reshape(B, rows, ih, columns, iw, self.num_heads, gh, gw, -1)
        out = out.permute(0, 1, 6, 2, 3, 7, 4, 5, 8).reshape(B, rows * gh * ih, columns * gw * iw, -1)
        return self.proj(out[:, :H, :W])

    def macs(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds per image on a height × width map, by phase."""
        (gh, ih), (gw, iw) = self._plan(height, width)
        padded = (height + missing(height, gh * ih)) * (width + missing(width, gw * iw))
        cost = {
            "projection": 4 * height * width * self.dim**2,
            "attention": 2 * padded * gh * gw * self.dim,
        }
        if self.position is not None:
            cost["position"] = self.position.macs((gh, gw))
        return cost

    def macs_backward(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds of the gradients: twice the forward pass, but the relative positions need none."""
        cost = {phase: 2 * macs for phase, macs in self.macs(height, width).items()}
        if self.position is not None:
            (gh, _), (gw, _) = self._plan(height, width)
            cost["position"] -= (2 * gh - 1) * (2 * gw - 1) * 2 * self.position.hidden
        return cost

    def macs_useful(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds less those of masked padding."""
        pairs = 1
        for labels in self._labels(height, width):
            pairs *= sum(tokens**2 for tokens in Counter(labels.tolist()).values())
        return {**self.macs(height, width), "attention": 2 * pairs * self.dim}

    def parameter_count(self) -> int:
        """Learned parameters: 4·C² + C, 3·C for the qkv bias, those of the position bias."""
        c = self.dim
        position = self.position.parameter_count() if self.position is not None else 0
        return 4 * c**2 + c + (3 * c if self.qkv.bias is not None else 0) + position

    def support(self, height: int, width: int) -> Tensor:
        """(N, N) bool: tokens of one group, that is of one square and equal remainders."""
        rows, columns = self._labels(height, width)
        return same_label((rows[:, None] * width + columns[None, :]).flatten())

    def _plan(self, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Along H and along W: tokens of a group, and their interval."""
        shorter = min(height, width)
        if self.padding == "official":
            one = shorter <= self.group_size
            plan = (shorter, 1) if one else (self.group_size, self.interval)
            return plan, plan
        intervals = min(self.interval, height), min(self.interval, width)
        groups = (-(-n // step) for n, step in zip((height, width), intervals, strict=True))
        rows, columns = ((min(self.group_size, n), step) for n, step in zip(groups, intervals, strict=True))
        return rows, columns

    def _labels(self, height: int, width: int) -> Iterator[Tensor]:
        """Group of each token along H, and along W."""
        for size, (group, interval) in zip((height, width), self._plan(height, width), strict=True):
            place = torch.arange(size)
            yield place.div(group * interval, rounding_mode="floor") * interval + place % interval

    def _bias(self, height: int, width: int, like: Tensor) -> Tensor | None:
        """Position bias (heads, L, L), mask (groups, 1, 1, L), their sum, or None without either."""
        (gh, ih), (gw, iw) = self._plan(height, width)
        bias = self.position((gh, gw), like) if self.position is not None else None
        if missing(height, gh * ih) or missing(width, gw * iw):
            real = pad_map(torch.ones(1, height, width, 1, device=like.device), (gh * ih, gw * iw))
            real = _cut(real, (gh, gw), (ih, iw)).permute(0, 1, 3, 4, 6, 2, 5, 7).reshape(-1, 1, 1, gh * gw)
            # A group of padding alone, whose output is cropped, stays unmasked: its softmax is finite.
            cut = (real == 0) & (real != 0).any(-1, keepdim=True)
            mask = torch.zeros_like(cut, dtype=like.dtype).masked_fill(cut, float("-inf"))
            bias = mask if bias is None else bias + mask
        return bias

    @staticmethod
    def full_attention_limit(height: int, width: int) -> dict[str, Any]:
        """Options under which this is full attention on a height × width map."""
        return {"group_size": max(height, width), "interval": 1, "position_bias": False}

    @classmethod
    def from_official(cls, case: dict[str, Any], impl: str = "eager") -> tuple[nn.Module, dict[str, str]]:
        """``CrossFormerBlock`` without its norms, MLP and residual."""
        kwargs = case["kwargs"]
        _, H, W, C = case["input_shape"]
        only(kwargs, dim=C, drop=0.0, drop_path=0.0, input_resolution=[H, W], **NO_DROPOUT)
        ignored(kwargs, "mlp_ratio", "num_patch_size")
        module = cls(
            Site(C, kwargs["num_heads"], H, W),
            group_size=kwargs.get("group_size", 7),
            interval=kwargs.get("interval", 8),
            kind=("sda", "lda")[kwargs.get("lsda_flag", 0)],
            qkv_bias=kwargs.get("qkv_bias", True),
            qk_scale=kwargs.get("qk_scale") or None,
            padding="official",
            impl=impl,
        )
        layers = {"pos_proj.": "0.", "pos1.0.": "1.", "pos1.2.": "3.", "pos2.0.": "4.", "pos2.2.": "6."}
        layers |= {"pos3.0.": "7.", "pos3.2.": "9."}
        return module, {"attn.": ""} | {
            f"attn.pos.{official}": f"position.layers.{own}" for official, own in layers.items()
        }


def _cut(x: Tensor, group: tuple[int, int], interval: tuple[int, int]) -> Tensor:
    """(B, H, W, C) as (B, squares, group, remainder, squares, group, remainder, C), a view."""
    x = x.unflatten(2, (-1, group[1], interval[1]))
    return x.unflatten(1, (-1, group[0], interval[0]))
