"""Deformable attention: all queries attend to points of the map that the image itself shifts.

Paper: Xia et al., 2022, "Vision Transformer with Deformable Attention", arXiv:2201.00520; the option
``form="pp"`` is DAT++ (Xia et al., 2023, arXiv:2309.01430).
Code: written from the papers; equal to ``DAttentionBaseline`` of LeapLabTHU/DAT at its CVPR 2022 state
(``v1``) and at its present one (``pp``).
Differs: v1's options ``no_off`` and ``fixed_pe``, which fail in the official code, do what they are meant
to; any map size runs. By default the blocks are arranged as in DAT-T, where only every second block of the
last two stages is deformable.
"""

from math import gcd
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnbench.implementations import resolve
from attnbench.mechanisms._attend import attend
from attnbench.mechanisms._local import DepthwiseConv
from attnbench.mechanisms._official import NO_DROPOUT, ignored, only
from attnbench.mechanisms.shifted_window import ShiftedWindowAttention
from attnbench.registry import Site, register_mechanism
from attnbench.scaling_rules import Rule

GROUPS = (1, 2, 3, 6)  # of the four stages, for 3, 6, 12, 24 heads
KERNELS = (9, 7, 5, 3)
POSITIONS = ("bias", "none", "dwc_pe", "fixed_pe", "log_cpb")


def sample(x: Tensor, y_at: Tensor, x_at: Tensor) -> Tensor:
    """Read a map bilinearly at normalised places; −1 and 1 are the centres of the outermost tokens.

    Args:
        x: (B, C, H, W).
        y_at, x_at: (B, ...) places, two more axes at most; outside the map there are zeros.

    Returns:
        (B, C, ...), in the dtype of the places.
    """
    grid = torch.stack((x_at, y_at), dim=-1)
    return F.grid_sample(x.to(grid.dtype), grid, mode="bilinear", padding_mode="zeros", align_corners=True)


def line(length: int, first: float, divisor: int, like: Tensor) -> Tensor:
    """(length,) places 2·(first + i) / divisor − 1 along an axis, in at least float32."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    return (torch.arange(length, dtype=dtype, device=like.device) + first) * (2 / divisor) - 1


class OffsetNetwork(nn.Module):
    """Depth-wise convolution, LayerNorm, GELU and a projection to (y, x); groups share the weights.

    Args:
        channels: channels of a group, C / groups.
        groups: groups of channels that move alike.
        kernel_size, stride, padding: of the convolution. A map smaller than an unpadded kernel is
            zero-padded to its size at the bottom and right.
    """

    def __init__(self, channels: int, groups: int, kernel_size: int, stride: int, padding: int) -> None:
        super().__init__()
        self.groups, self.kernel_size, self.stride, self.padding = groups, kernel_size, stride, padding
        reference = nn.Conv2d(channels, channels, kernel_size, groups=channels)  # for its initialisation
        self.weight, self.bias = reference.weight, nn.Parameter(torch.zeros(channels))
        self.norm = nn.LayerNorm(channels)
        self.proj = nn.Linear(channels, 2, bias=False)

    def forward(self, q: Tensor) -> Tensor:
        """Queries (B, H, W, C) to raw offsets (B, H_k, W_k, groups, 2)."""
        k = self.kernel_size - 2 * self.padding
        missing = max(k - q.shape[1], 0), max(k - q.shape[2], 0)
        if any(missing):
            q = F.pad(q, (0, 0, 0, missing[1], 0, missing[0]))
        # Repeating the few weights leaves the map channels-last, where the convolution is fastest.
        weight, bias = self.weight.repeat(self.groups, 1, 1, 1), self.bias.repeat(self.groups)
        y = F.conv2d(q.permute(0, 3, 1, 2), weight, bias, self.stride, self.padding, groups=q.shape[-1])
        y = y.permute(0, 2, 3, 1).unflatten(-1, (self.groups, -1))
        return self.proj(F.gelu(self.norm(y)))


@register_mechanism(
    "deformable",
    title="Deformable",
    paper="arXiv:2201.00520",
    year=2022,
    pattern="image",
    complexity="O(N^2)",
    impls=("eager", "sdpa"),
    per_stage={"stride": 1, "offset_range_factor": 2.0},
    goldens=("dat_v1", "dat_pp"),
)
class DeformableAttention(nn.Module):
    """Attention of every token over N_s sampled points, moved per group by offsets that the queries give.

    Cost: 2·N·C² + 2·N_s·C² (projection) + N_s·C·(k² + 2) (sampling: the offset network) + 2·N·N_s·C
    (attention) MACs; plus N·N_s·(64·groups + 32·heads) (position) with ``log_cpb``, 9·N·C (local) with
    ``dwc_pe``. Bilinear reading is not counted. The cost of a local block is that of ShiftedWindowAttention.

    Args:
        site: place in the backbone; sizes the position bias.
        alternate: arrange blocks as DAT-T does: windows in even blocks; in odd blocks shifted windows in
            stages 0 and 1, and deformable attention from stage 2 on. False: deformable in every block.
        window_size: side of the windows; they shift by half of it, rounded up (Swin rounds down).
        form: ``v1`` or ``pp`` (DAT++). They differ in the grid of points, (i + ½) / n against
            (i + ½) / (n − 1), in what a range of 0 or less does, and in the offset network's padding: pp has
            none where ``kernel_size`` = ``stride``.
        groups: groups of channels with offsets of their own. ``None``: the greatest common divisor of the
            heads and DAT's number at the stage (1, 2, 3, 6).
        stride: tokens per point along each axis.
        offset_range_factor: offsets are bounded to this many points by tanh. Negative: offsets are not
            bounded, but places are kept on the map, by tanh in v1 and clamped in pp. Zero: no
            bound in v1, no offsets in pp.
        kernel_size: of the offset network; ``None`` for 9, 7, 5, 3 by stage.
        position: ``bias`` (a table read bilinearly at query − point), ``none``, ``dwc_pe`` (a 3 × 3
            depth-wise convolution of the queries, added to the output), ``fixed_pe`` (a bias per query and
            point, interpolated on other maps) or ``log_cpb`` (an MLP of the logarithmic distance). ``None``
            for ``bias``, but ``none`` in pp with ``no_off``.
        local_position_bias: learn a relative position bias in the local blocks.
        no_off: leave the points where they are; pp then pools stride × stride tokens instead of reading one.
        impl: ``eager`` or ``sdpa``.

    Raises:
        ValueError: an option is unknown or not positive, ``groups`` does not divide the channels, or does not
            divide the heads although the position term is theirs.
    """

    bare: ClassVar[dict[str, Any]] = {"local_position_bias": False, "position": "none"}

    growth: ClassVar[tuple[Rule, ...]] = (
        Rule("", "one point per token, in every block", lambda *_: {"alternate": False}),
    )

    def __init__(
        self,
        site: Site,
        *,
        alternate: bool = True,
        window_size: int = 7,
        form: str = "v1",
        groups: int | None = None,
        stride: int = 1,
        offset_range_factor: float = 2.0,
        kernel_size: int | None = None,
        position: str | None = None,
        no_off: bool = False,
        local_position_bias: bool = True,
        impl: str = "eager",
    ) -> None:
        super().__init__()
        stage = min(site.stage, 3)
        groups = gcd(site.num_heads, GROUPS[stage]) if groups is None else groups
        kernel = KERNELS[stage] if kernel_size is None else kernel_size
        pp = form == "pp"
        position = position or ("none" if pp and no_off else "bias")
        if form not in ("v1", "pp"):
            raise ValueError(f"form must be 'v1' or 'pp', got {form!r}")
        if position not in POSITIONS:
            raise ValueError(f"position must be one of {POSITIONS}, got {position!r}")
        if min(groups, stride, kernel, window_size) < 1:
            raise ValueError(
                "groups, stride, kernel_size and window_size must be positive, "
                f"got {groups}, {stride}, {kernel}, {window_size}"
            )
        shared = site.num_heads if position in ("bias", "log_cpb") else site.dim
        if shared % groups:
            raise ValueError(
                f"groups must divide {shared} ({'heads' if shared == site.num_heads else 'channels'} "
                f"of the site, with position {position!r}), got {groups}"
            )
        self.dim, self.num_heads, self.head_dim = site.dim, site.num_heads, site.head_dim
        self.pp, self.groups, self.stride, self.kernel_size = pp, groups, stride, kernel
        self.factor, self.position, self.no_off, self.impl = offset_range_factor, position, no_off, impl
        self.padding = 0 if pp and kernel == stride else kernel // 2
        self.local: ShiftedWindowAttention | None = None
        if alternate and (site.block % 2 == 0 or site.stage < 2):
            shift = min((window_size + 1) // 2, window_size - 1) * (site.block % 2)
            self.local = ShiftedWindowAttention(
                site,
                window_size=window_size,
                shift_size=shift,
                position_bias=local_position_bias,
                impl=impl,
            )
            return
        c, h = site.dim, site.num_heads
        self.proj_q, self.proj_k, self.proj_v, self.proj_out = (nn.Linear(c, c) for _ in range(4))
        self.offsets = None if no_off else OffsetNetwork(c // groups, groups, kernel, stride, self.padding)
        self.size = (site.height, site.width)
        if position in ("bias", "fixed_pe"):
            fixed = (site.height * site.width, self._points(site.height) * self._points(site.width))
            free = (2 * site.height - 1, 2 * site.width - 1)
            self.table = nn.Parameter(torch.empty(h, *(fixed if position == "fixed_pe" else free)))
            nn.init.normal_(self.table, std=0.01)
        elif position == "log_cpb":
            self.mlp = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, h // groups, bias=False))
        elif position == "dwc_pe":
            self.lepe = DepthwiseConv(c, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        if self.local is not None:
            return self.local(x)
        B, H, W, C = x.shape
        q = self.proj_q(x)
        points = self._places(q, (H, W))  # y and x, each (B · groups, H_k, W_k)
        planes = x.permute(0, 3, 1, 2)
        if self.pp and self.no_off:
            # Trailing tokens that fill no cell are left out where the unpadded convolution leaves them out.
            h, w = (n // self.stride * self.stride if self._whole(n) else n for n in (H, W))
            sampled = F.avg_pool2d(planes[:, :, :h, :w], self.stride, ceil_mode=True)
        else:
            sampled = sample(planes.reshape(B * self.groups, -1, H, W), *points)
        sampled = sampled.reshape(B, C, -1).transpose(1, 2).to(x.dtype)  # (B, N_s, C)
        heads = (q.flatten(1, 2), self.proj_k(sampled), self.proj_v(sampled))
        qh, k, v = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in heads)
        bias = self._bias(q, points)
        out = attend(qh, k, v, scale=self.head_dim**-0.5, bias=bias, impl=resolve(self, qh, H, W))
        out = out.transpose(1, 2).reshape(B, H, W, C)
        if self.position == "dwc_pe":
            out = out + self.lepe(q)
        return self.proj_out(out)

    def implementation(
        self, device: torch.device, dtype: torch.dtype, height: int, width: int, training: bool
    ) -> str:
        """``sdpa``, but ``eager`` on a CPU, where the bias differs by image; local blocks choose."""
        if self.local is not None:
            return self.local.implementation(device, dtype, height, width, training)
        return "eager" if device.type == "cpu" else "sdpa"

    def macs(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds per image on a height × width map, by phase."""
        if self.local is not None:
            return self.local.macs(height, width)
        n, s, c = height * width, self._points(height) * self._points(width), self.dim
        cost = {"projection": 2 * (n + s) * c**2, "attention": 2 * n * s * c}
        if not self.no_off:
            cost["sampling"] = s * c * (self.kernel_size**2 + 2)
        if self.position == "log_cpb":
            cost["position"] = n * s * (64 * self.groups + 32 * self.num_heads)
        if self.position == "dwc_pe":
            cost["local"] = self.lepe.macs(height, width)
        return cost

    def macs_backward(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds of the gradients: twice forward, but fixed points need none in ``log_cpb``."""
        cost = {phase: 2 * macs for phase, macs in self.macs(height, width).items()}
        if self.local is None and self.no_off and self.position == "log_cpb":
            points = self._points(height) * self._points(width)
            cost["position"] -= 64 * self.groups * height * width * points
        return cost

    def macs_useful(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds less those that the mask of a local block cuts."""
        return self.macs(height, width) if self.local is None else self.local.macs_useful(height, width)

    def parameter_count(self) -> int:
        """Learned parameters: 4·(C² + C), (k² + 5)·C / groups for the offsets, and the position term's."""
        if self.local is not None:
            return self.local.parameter_count()
        c, h = self.dim, self.num_heads
        height, width = self.size
        position = {
            "bias": h * (2 * height - 1) * (2 * width - 1),
            "none": 0,
            "dwc_pe": 10 * c,
            "fixed_pe": h * height * width * self._points(height) * self._points(width),
            "log_cpb": 96 + 32 * h // self.groups,
        }
        offsets = 0 if self.offsets is None else (self.kernel_size**2 + 5) * c // self.groups
        return 4 * (c**2 + c) + offsets + position[self.position]

    def support(self, height: int, width: int) -> Tensor:
        """(N, N) bool: all, since points may lie anywhere; in a local block, the windows."""
        if self.local is not None:
            return self.local.support(height, width)
        return torch.ones(height * width, height * width, dtype=torch.bool)

    def _whole(self, size: int) -> bool:
        """Whether pooling an axis drops an incomplete last cell, as the convolution it replaces does."""
        return self.padding == 0 and self.kernel_size == self.stride <= size

    def _points(self, size: int) -> int:
        """Points along an axis of ``size`` tokens; at least one."""
        k, s, p = self.kernel_size, self.stride, self.padding
        if self.pp and self.no_off:
            return size // s if self._whole(size) else -(-size // s)
        return max(size + 2 * p - k, 0) // s + 1

    def _places(self, q: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Normalised y and x of the points, each (B · groups, H_k, W_k), in at least float32.

        Half precision would move a point by a noticeable part of a token.
        """
        counts = self._points(size[0]), self._points(size[1])
        # On an axis with one point, pp's n − 1 is 0; its point then lies in the middle.
        steps = [max(n - 1, 1) if self.pp else n for n in counts]
        reference = [line(n, 0.5, step, q) for n, step in zip(counts, steps, strict=True)]
        y, x = (
            t.expand(q.shape[0] * self.groups, *counts)
            for t in (reference[0][:, None], reference[1][None, :])
        )
        if self.offsets is not None and not self.no_off:
            offset = self.offsets(q).to(y.dtype)  # (B, H_k, W_k, groups, 2)
            offset_y, offset_x = offset.permute(4, 0, 3, 1, 2).flatten(1, 2)
            if self.factor > 0 or (self.pp and self.factor == 0):
                offset_y = offset_y.tanh() * (self.factor / steps[0])
                offset_x = offset_x.tanh() * (self.factor / steps[1])
            y, x = y + offset_y, x + offset_x
        if self.factor < 0:
            y, x = (t.clamp(-1, 1) if self.pp else t.tanh() for t in (y, x))
        return y, x

    def _bias(self, q: Tensor, points: tuple[Tensor, Tensor]) -> Tensor | None:
        """(B, heads, N, N_s), or (heads, N, N_s) if it is the same for all images; None without a bias."""
        if self.position in ("none", "dwc_pe"):
            return None
        B, H, W, _ = q.shape
        if self.position == "fixed_pe":
            return self._fixed((H, W), (points[0].shape[1], points[0].shape[2])).to(q.dtype)
        # Queries lie half a token inside the border in v1, on it in pp (one alone: in the middle).
        rows, columns = (line(n, 0.0, n - 1, q) if self.pp and n > 1 else line(n, 0.5, n, q) for n in (H, W))
        query = rows.repeat_interleave(W), columns.repeat(H)
        # query − point, (B · groups, N, N_s)
        dy, dx = (a[:, None] - b.flatten(1)[:, None, :] for a, b in zip(query, points, strict=True))
        if self.position == "bias":
            table = self.table.unflatten(0, (self.groups, -1)).repeat(B, 1, 1, 1)
            bias = sample(table, dy / 2, dx / 2)  # (B · groups, heads / groups, N, N_s)
        else:
            distance = torch.stack((dy, dx), dim=-1) * 4
            distance = distance.sign() * (distance.abs() + 1).log2() / 3  # log2(8) = 3
            bias = self.mlp(distance.to(q.dtype)).permute(0, 3, 1, 2)
        return bias.reshape(B, self.num_heads, H * W, -1).to(q.dtype)

    def _fixed(self, queries: tuple[int, int], points: tuple[int, int]) -> Tensor:
        """The table (heads, N, N_s) of the site, interpolated to another map along queries, then points."""
        table: Tensor = self.table
        if queries == self.size:
            return table
        site_points = self._points(self.size[0]), self._points(self.size[1])
        for old, new in ((site_points, points), (self.size, queries)):
            table = F.interpolate(table.unflatten(2, old), new, mode="bilinear").flatten(2).transpose(1, 2)
        return table

    def auxiliary(self, x: Tensor) -> dict[str, Tensor]:
        """Intermediate results by their golden names: ``pos`` (B, groups, H_k, W_k, 2), in (y, x)."""
        places = torch.stack(self._places(self.proj_q(x), (x.shape[1], x.shape[2])), dim=-1)
        return {"pos": places.unflatten(0, (-1, self.groups))}

    @classmethod
    def from_official(cls, case: dict[str, Any], impl: str = "eager") -> tuple[nn.Module, dict[str, str]]:
        """DAT's ``DAttentionBaseline``: with ``ksize`` that of DAT++, without it the first version."""
        kwargs = case["kwargs"]
        _, H, W, C = case["input_shape"]
        form = "pp" if "ksize" in kwargs else "v1"
        only(kwargs, n_head_channels=C // kwargs["n_heads"], **NO_DROPOUT)
        ignored(kwargs, "kv_size", "stage_idx", "log_cpb", "use_pe", "dwc_pe", "fixed_pe")
        heads, no_off = kwargs["n_heads"], kwargs.get("no_off", False)
        # The table belongs to the queries' size in DAT++, and to that of keys and values in v1.
        height, width = kwargs["q_size"] if form == "pp" else kwargs.get("kv_size", kwargs["q_size"])
        position = next((p for p in ("dwc_pe", "fixed_pe", "log_cpb") if kwargs.get(p)), "bias")
        if not kwargs.get("use_pe", True) or (form == "pp" and no_off):
            position = "none"
        module = cls(
            Site(C, heads, height, width),
            alternate=False,
            form=form,
            groups=kwargs.get("n_groups", 1),
            stride=kwargs.get("stride", 1),
            offset_range_factor=kwargs.get("offset_range_factor", 2),
            kernel_size=kwargs.get("ksize") or KERNELS[kwargs.get("stage_idx", 0)],
            position=position,
            no_off=no_off,
            impl=impl,
        )
        if form == "pp" and not no_off and 1 in (module._points(H), module._points(W)):
            raise ValueError(f"the official DAT++ divides by zero with one point on an axis, as on {H} x {W}")
        if no_off:  # the official module keeps the network it does not use
            channels = module.dim // module.groups
            module.offsets = OffsetNetwork(channels, module.groups, module.kernel_size, 1, 0).requires_grad_(
                False
            )
        table = {"dwc_pe": "lepe", "log_cpb": "mlp"}.get(position, "table")
        return module, {
            "conv_offset.0.": "offsets.",
            "conv_offset.1.norm.": "offsets.norm.",
            "conv_offset.3.": "offsets.proj.",
            "rpe_table": table,
        }
