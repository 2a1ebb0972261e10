"""Axial attention: tokens attend along one axis of the map at a time.

Paper: Ho et al., 2019, "Axial Attention in Multidimensional Transformers", arXiv:1912.12180.
Code: written from the definition; both axes in one block equal the third-party module
lucidrains/axial-attention (the authors published no module of this kind).
Differs from the paper: no causal mask. By default a block attends along one axis, columns in even blocks
and rows in odd ones, with a relative position bias: the form the ablation of CSWin (Table 9) must have used.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from attnbench.implementations import resolve
from attnbench.mechanisms._attend import attend
from attnbench.mechanisms._cast_once import cast_once
from attnbench.mechanisms._lines import line_bias, same_column, same_row
from attnbench.mechanisms._official import ignored, only
from attnbench.registry import Site, register_mechanism


def axial_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    axis: str,
    *,
    scale: float,
    bias: Tensor | None = None,
    impl: str = "eager",
) -> Tensor:
    """Attend within every column (``axis="height"``) or every row (``axis="width"``).

    Args:
        q, k, v: (B, H, W, heads, d).
        axis: the axis along which a token's keys lie.
        scale: factor on the logits.
        bias: (heads, L, L) added to the logits, L the length of the axis.
        impl: ``eager`` or ``sdpa``.

    Returns:
        (B, H, W, heads, d).
    """
    along = 1 if axis == "height" else 2
    lines = 3 - along
    # Lines join the batch: (B · lines, heads, L, d).
    q_, k_, v_ = (t.movedim((lines, 3), (1, 2)).flatten(0, 1) for t in (q, k, v))
    out = attend(q_, k_, v_, scale=scale, bias=None if bias is None else bias[None], impl=impl)
    return out.unflatten(0, (q.shape[0], q.shape[lines])).movedim((1, 2), (lines, 3))


class FastestInLines:
    """For attention along lines of a map: what ``impl="auto"`` runs."""

    impl: str

    def implementation(
        self, device: torch.device, dtype: torch.dtype, height: int, width: int, training: bool
    ) -> str:
        """``eager`` on a CPU, where torch's fused attention loses up to a quarter in lines so short."""
        return "eager" if device.type == "cpu" else "sdpa"


class AxisAttention(FastestInLines, nn.Module):
    """Projections and attention along one axis.

    Args:
        axis: ``height`` or ``width``.
        dim, num_heads, inner: channels C, heads, and channels of all heads together.
        reach: length of axis the position bias is sized for; 0 for no bias.
        fused: one projection for q, k and v; otherwise one for q and one for k and v.
        qkv_bias: learn a bias in them.
        impl: ``eager`` or ``sdpa``.
    """

    def __init__(
        self,
        axis: str,
        dim: int,
        num_heads: int,
        inner: int,
        *,
        reach: int,
        fused: bool,
        qkv_bias: bool,
        impl: str,
    ) -> None:
        super().__init__()
        self.axis, self.num_heads, self.inner, self.impl = axis, num_heads, inner, impl
        widths = {"qkv": 3 * inner} if fused else {"q": inner, "kv": 2 * inner}
        self.project = nn.ModuleDict({name: nn.Linear(dim, d, bias=qkv_bias) for name, d in widths.items()})
        self.proj = nn.Linear(inner, dim)
        self.bias_table: nn.Parameter | None = None
        if reach:
            self.bias_table = nn.Parameter(nn.init.normal_(torch.empty(2 * reach - 1, num_heads), std=0.02))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        x = cast_once(x)
        projected = (layer(x).chunk(len(parts), dim=-1) for parts, layer in self.project.items())
        # Whether from one projection or two, in the order q, k, v; each (B, H, W, heads, d).
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)) for part in projected for t in part)
        bias: Tensor | None = None
        if self.bias_table is not None:
            length = x.shape[1] if self.axis == "height" else x.shape[2]
            bias = line_bias(self.bias_table, length).to(q.dtype)
        impl = resolve(self, q, *x.shape[1:3])
        out = axial_attention(q, k, v, self.axis, scale=q.shape[-1] ** -0.5, bias=bias, impl=impl)
        return self.proj(out.flatten(3))


@register_mechanism(
    "sequential_axial",
    title="Sequential axial",
    paper="arXiv:1912.12180",
    year=2019,
    pattern="static",
    complexity="O(N^1.5)",
    impls=("eager", "sdpa"),
    goldens=("axial_lucidrains",),
)
class SequentialAxialAttention(FastestInLines, nn.Module):
    """Attention along the height axis, the width axis, or both.

    Cost: 4·N·C² (projection) + 2·N·L·C (attention) MACs per axis, L the axis' length (with ``head_dim``
    set, C² and C become C·D and D, D = heads · head_dim).

    Args:
        site: place in the backbone; sizes the position bias.
        form: ``alternate`` (one axis per block), ``sequential`` (height, then width on its result, in one
            block) or ``sum`` (both on the same input, added).
        kind: ``height`` or ``width``, the axis in the form ``alternate``; ``None`` for height in even blocks
            and width in odd ones.
        position_bias: learn a bias per head and distance along the axis. Distances that do not occur at
            the site, but do on a larger map, take the value of the farthest that does.
        qkv_bias: learn a bias in the query, key and value projections; ``None`` for yes in the form
            ``alternate`` and no in the other two.
        head_dim: channels of a head; ``None`` for C / heads.
        impl: ``eager`` or ``sdpa``.

    Raises:
        ValueError: ``form`` or ``kind`` is unknown, ``kind`` is given though both are attended to, or
            ``head_dim`` is not positive.
    """

    bare: ClassVar[dict[str, Any]] = {"position_bias": False}

    def __init__(
        self,
        site: Site,
        *,
        form: str = "alternate",
        kind: str | None = None,
        position_bias: bool = True,
        qkv_bias: bool | None = None,
        head_dim: int | None = None,
        impl: str = "eager",
    ) -> None:
        super().__init__()
        self.impl = impl
        if form not in ("alternate", "sequential", "sum"):
            raise ValueError(f"form must be 'alternate', 'sequential' or 'sum', got {form!r}")
        if kind not in ((None, "height", "width") if form == "alternate" else (None,)):
            raise ValueError(
                f"kind must be None, or 'height' or 'width' in form 'alternate', got {kind!r} in {form!r}"
            )
        if head_dim is not None and head_dim < 1:
            raise ValueError(f"head_dim must be positive, got {head_dim}")
        alternate = form == "alternate"
        self.axis_names = (kind or ("height", "width")[site.block % 2],) if alternate else ("height", "width")
        sizes = {"height": site.height, "width": site.width}
        self.reach = tuple(sizes[name] if position_bias else 0 for name in self.axis_names)
        self.form, self.dim, self.num_heads = form, site.dim, site.num_heads
        self.inner = self.num_heads * (head_dim or site.head_dim)
        self.qkv_bias = alternate if qkv_bias is None else qkv_bias
        self.axes = nn.ModuleList(
            AxisAttention(
                name,
                self.dim,
                self.num_heads,
                self.inner,
                reach=reach,
                fused=alternate,
                qkv_bias=self.qkv_bias,
                impl=impl,
            )
            for name, reach in zip(self.axis_names, self.reach, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        if self.form == "sum":
            x = cast_once(x)
            columns, rows = self.axes
            return columns(x) + rows(x)
        for attention in self.axes:
            x = attention(x)
        return x

    def macs(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds per image on a height × width map, by phase."""
        n, keys = height * width, sum(height if axis == "height" else width for axis in self.axis_names)
        return {
            "projection": 4 * n * self.dim * self.inner * len(self.axis_names),
            "attention": 2 * n * keys * self.inner,
        }

    def parameter_count(self) -> int:
        """Learned parameters per axis: 4·C·D + C, 3·D for a qkv bias, (2·L − 1)·heads for a position bias."""
        count = 4 * self.dim * self.inner + self.dim + (3 * self.inner if self.qkv_bias else 0)
        entries = sum(2 * length - 1 for length in self.reach if length)
        return count * len(self.axis_names) + entries * self.num_heads

    def support(self, height: int, width: int) -> Tensor:
        """(N, N) bool: output token i depends on its column, its row, their union, or on all tokens."""
        if self.form == "sequential":
            return torch.ones(height * width, height * width, dtype=torch.bool)
        column, row = same_column(height, width), same_row(height, width)
        if self.form == "sum":
            return column | row
        return column if self.axis_names == ("height",) else row

    @classmethod
    def from_official(cls, case: dict[str, Any], impl: str = "eager") -> tuple[nn.Module, dict[str, str]]:
        """lucidrains' ``AxialAttention``; ``dim_index`` only says where the module keeps its channels."""
        kwargs = case["kwargs"]
        _, H, W, C = case["input_shape"]
        only(kwargs, dim=C, num_dimensions=2)
        ignored(kwargs, "dim_index")
        module = cls(
            Site(C, kwargs.get("heads", 8), H, W),
            form="sum" if kwargs.get("sum_axial_out", True) else "sequential",
            position_bias=False,
            head_dim=kwargs.get("dim_heads"),
            impl=impl,
        )
        names = {"to_q.": "project.q.", "to_kv.": "project.kv.", "to_out.": "proj."}
        prefixes = {
            f"axial_attentions.{i}.fn.{official}": f"axes.{i}.{own}"
            for i in (0, 1)
            for official, own in names.items()
        }
        return module, prefixes
