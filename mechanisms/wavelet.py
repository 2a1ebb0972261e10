"""Wavelet attention: keys and values come from a Haar transform of the map, which loses nothing.

Paper: Yao et al., 2022, "Wave-ViT: Unifying Wavelet and Transformers for Visual Representation Learning",
arXiv:2207.04978.
Code: written from the paper and the definition in the official ``wavevit.py``; equal to its ``Attention``,
and with ``form="official"`` to its ``WaveAttention``.
Settings: Wave-ViT-S, that is wavelet attention with strides 4 and 2 in the first two stages and full
attention in the last two; the layout's dims and heads.
Differs from the official code by default: LayerNorm and GELU stand for batch norm and ReLU, so that an
image's output depends on that image alone and does not change with calls. Any map is accepted: the transform
repeats an odd map's last row or column (the half-sample symmetric extension), where the official code stops,
and the strided convolution sees zeros beyond the map, where the official code leaves trailing tokens out.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from attnbench.implementations import resolve
from attnbench.mechanisms._attend import FastestPlainAttend, attend
from attnbench.mechanisms._official import only
from attnbench.mechanisms._patches import PatchConv
from attnbench.mechanisms._windows import pad_map
from attnbench.registry import Site, register_mechanism


def haar(x: Tensor) -> Tensor:
    """Orthonormal 2 × 2 Haar transform of (B, H, W, C), H and W even: (B, H/2, W/2, 4·C).

    Subbands in the order LL, LH (difference of rows), HL (of columns), HH.
    """
    top, bottom = x[:, 0::2], x[:, 1::2]
    bands = []
    for rows in (top + bottom, top - bottom):
        left, right = rows[:, :, 0::2], rows[:, :, 1::2]
        bands.append((left + right, left - right))
    (ll, hl), (lh, hh) = bands
    return torch.cat((ll, lh, hl, hh), dim=-1) / 2


def inverse_haar(bands: Tensor) -> Tensor:
    """Undo :func:`haar`: (B, h, w, 4·C) to (B, 2·h, 2·w, C)."""
    ll, lh, hl, hh = bands.chunk(4, dim=-1)
    rows = []
    for sign in (1, -1):  # the top row of each 2 × 2 square, then the bottom one
        even, odd = ll + sign * lh, hl + sign * hh
        rows.append(torch.stack((even + odd, even - odd), dim=3).flatten(2, 3))
    return torch.stack(rows, dim=2).flatten(1, 2) / 2


def extend(x: Tensor) -> Tensor:
    """Repeat the last row and column of (B, H, W, C) where their number is odd."""
    if x.shape[1] % 2:
        x = torch.cat((x, x[:, -1:]), dim=1)
    if x.shape[2] % 2:
        x = torch.cat((x, x[:, :, -1:]), dim=2)
    return x


class MapBatchNorm(nn.BatchNorm2d):
    """Batch normalisation of (B, H, W, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


@register_mechanism(
    "wavelet",
    title="Wavelet",
    paper="arXiv:2207.04978",
    year=2022,
    pattern="static",
    complexity="O(N^2)",
    impls=("eager", "sdpa"),
    per_stage={"sr_ratio": (4, 2, 1, 1), "wavelet": (True, True, False, False)},
    goldens=("wavevit_full", "wavevit_wave"),
)
class WaveletAttention(FastestPlainAttend, nn.Module):
    """Full attention to a map reduced by a Haar transform, next to that map transformed back.

    x is reduced to R = max(1, C // 4) channels, normalised, activated and transformed to 4·R channels on
    N_h = ⌈H/2⌉·⌈W/2⌉ tokens; a 3 × 3 convolution mixes the subbands. Keys and values are taken from it
    by a convolution of stride r and a LayerNorm, N_k = ⌈⌈H/2⌉/r⌉·⌈⌈W/2⌉/r⌉; transformed back it joins the
    attention's output before the last projection.
    Cost: N·C² + 2·N_k·4R·C + N·(C + R)·C (projection) + N·C·R + r²·N_k·(4R)² (sampling; the second
    term only if r > 1) + 9·N_h·(4R)² (local) + 2·N·N_k·C (attention) MACs. The transform itself is a
    few additions and not counted. With ``wavelet=False``: 4·N·C² + 2·N²·C, full attention.

    Args:
        site: place in the backbone.
        sr_ratio: stride r of the convolution that keys and values come from; 1 for none.
        wavelet: ``False`` for full attention, as in the last two stages of Wave-ViT.
        qkv_bias: learn a bias in the query, key and value projections.
        form: ``layer`` (LayerNorm and GELU in the wavelet's branch; any map) or ``official`` (BatchNorm and
            ReLU; maps of even sides, of which the strided convolution leaves out what fills no patch).
        impl: ``eager`` or ``sdpa``.

    Raises:
        ValueError: ``sr_ratio`` is not positive, ``form`` is unknown, or (when run) the map is odd or too
            small with ``form="official"``.
    """

    def __init__(
        self,
        site: Site,
        *,
        sr_ratio: int = 1,
        wavelet: bool = True,
        qkv_bias: bool = True,
        form: str = "layer",
        impl: str = "eager",
    ) -> None:
        super().__init__()
        if sr_ratio < 1:
            raise ValueError(f"sr_ratio must be positive, got {sr_ratio}")
        if form not in ("layer", "official"):
            raise ValueError(f"form must be 'layer' or 'official', got {form!r}")
        self.form = form
        self.dim, self.num_heads, self.head_dim = site.dim, site.num_heads, site.head_dim
        self.wavelet, self.ratio, self.impl = wavelet, sr_ratio, impl
        self.reduced = max(1, self.dim // 4) if wavelet else 0
        bands = 4 * self.reduced
        self.q = nn.Linear(self.dim, self.dim, bias=qkv_bias)
        self.kv = nn.Linear(bands or self.dim, 2 * self.dim, bias=qkv_bias)
        self.proj = nn.Linear(self.dim + self.reduced, self.dim)
        if wavelet:
            norm, act = (nn.LayerNorm, nn.GELU) if form == "layer" else (MapBatchNorm, nn.ReLU)
            self.reduce = nn.Sequential(nn.Linear(self.dim, self.reduced), norm(self.reduced), act())
            self.mix = nn.Conv2d(bands, bands, 3, padding=1)
            self.mix_norm = nn.Sequential(norm(bands), act())
            self.embed = PatchConv(bands, bands, sr_ratio) if sr_ratio > 1 else None
            self.kv_norm = nn.LayerNorm(bands)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        H, W = x.shape[1:3]
        if not self.wavelet:
            return self.proj(self._attend(x, x))
        self._keys(H, W)
        bands = haar(extend(self.reduce(x)))
        bands = self.mix_norm(self.mix(bands.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))  # (B, H/2, W/2, 4R)
        y = bands
        if self.embed is not None:
            y = pad_map(y, (self.ratio, self.ratio)) if self.form == "layer" else y
            y = self.embed(y)
        out = self._attend(x, self.kv_norm(y))
        return self.proj(torch.cat((out, inverse_haar(bands)[:, :H, :W]), dim=-1))

    def macs(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds per image on a height × width map, by phase."""
        n, c, r = height * width, self.dim, self.reduced
        if not self.wavelet:
            return {"projection": 4 * n * c**2, "attention": 2 * n**2 * c}
        rows, columns = -(-height // 2), -(-width // 2)
        keys = math.prod(self._keys(height, width))
        embed = self.ratio**2 * keys * (4 * r) ** 2 if self.ratio > 1 else 0
        return {
            "projection": n * c**2 + 2 * keys * 4 * r * c + n * (c + r) * c,
            "sampling": n * c * r + embed,
            "local": 9 * rows * columns * (4 * r) ** 2,
            "attention": 2 * n * keys * c,
        }

    def parameter_count(self) -> int:
        """2·C² + 10·R·C + C + 23·R + 9·(4R)², 3·C for the qkv bias, r²·(4R)² + 4·R if r > 1."""
        c, b = self.dim, 4 * self.reduced
        bias = 3 * c if self.q.bias is not None else 0
        if not self.wavelet:
            return 4 * c**2 + c + bias
        projections = c**2 + 2 * b * c + (c + self.reduced) * c + c + bias
        embed = self.ratio**2 * b**2 + b if self.ratio > 1 else 0
        return projections + (c + 3) * self.reduced + 9 * b**2 + 5 * b + embed

    def support(self, height: int, width: int) -> Tensor:
        """(N, N) bool: all, since the keys cover the map."""
        n = height * width
        return torch.ones(n, n, dtype=torch.bool)

    def _keys(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the keys of the wavelet's branch."""
        rows, columns = -(-height // 2), -(-width // 2)
        if self.form == "layer":
            return -(-rows // self.ratio), -(-columns // self.ratio)
        if height % 2 or width % 2 or min(rows, columns) < self.ratio:
            raise ValueError(
                f"form='official' needs maps of even sides of at least {2 * self.ratio} tokens, "
                f"got {height} x {width}; form='layer' takes any"
            )
        return rows // self.ratio, columns // self.ratio

    def _attend(self, x: Tensor, y: Tensor) -> Tensor:
        """Attention of the tokens of x (B, H, W, C) to the map y: (B, H, W, C), not projected."""
        (B, H, W, _), heads = x.shape, self.num_heads
        q = self.q(x).reshape(B, H * W, heads, -1).transpose(1, 2)  # (B, heads, N, d)
        kv = self.kv(y).reshape(B, y.shape[1] * y.shape[2], 2, heads, -1)
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, N_k, d)
        out = attend(q, k, v, scale=self.head_dim**-0.5, impl=resolve(self, q, H, W))
        return out.transpose(1, 2).reshape(B, H, W, -1)

    @staticmethod
    def full_attention_limit(height: int, width: int) -> dict[str, Any]:
        """Options under which this is full attention on a height × width map."""
        return {"wavelet": False, "sr_ratio": 1}

    @classmethod
    def from_official(cls, case: dict[str, Any], impl: str = "eager") -> tuple[nn.Module, dict[str, str]]:
        """``WaveAttention`` (in evaluation mode) and ``Attention`` of ``wavevit.py``."""
        kwargs = case["kwargs"]
        _, H, W, C = case["input_shape"]
        only(kwargs, dim=C)
        site = Site(C, kwargs["num_heads"], H, W)
        if case["mechanism"] == "wavevit_full":
            return cls(site, wavelet=False, impl=impl), {}
        if C % 4:
            raise ValueError(f"the official WaveAttention needs a dim divisible by 4, got {C}")
        names = {"filter.0.": "mix.", "filter.1.": "mix_norm.0.", "kv_embed.": "embed."}
        names |= {"kv.0.": "kv_norm.", "kv.1.": "kv."}
        return cls(site, sr_ratio=kwargs["sr_ratio"], form="official", impl=impl), names
