"""Neighborhood attention: every token attends to the K × K real tokens nearest to it.

Paper: Hassani et al., 2023, "Neighborhood Attention Transformer", arXiv:2204.07143.
Code: written from the paper; equal to NATTEN's function ``na2d`` (0.21) and to its module of release 0.14,
with which NAT and DiNAT were trained and whose treatment of small maps is ``padding="official"``.
Differs from the paper by default: on a map smaller than the window, the window shrinks to the map.
"""

from typing import Any

import torch
from torch import Tensor, nn

from attnbench.backends import natten_na2d
from attnbench.errors import ImplementationError
from attnbench.mechanisms._neighborhood import Axis, gathered, slot_tables, tile_tables, tiled
from attnbench.mechanisms._neighborhood_module import IMPLEMENTATIONS, WindowPerQuery
from attnbench.mechanisms._official import NO_DROPOUT, only
from attnbench.registry import Site, register_mechanism


def neighborhood_attention(
    qkv: Tensor, kernel_size: tuple[int, int], dilation: tuple[int, int], scale: float
) -> Tensor:
    """Neighborhood attention without projections or position bias.

    Along an axis of length L, token i is place p = i div D of dilation class r = i mod D, which has n =
    ceil((L − r) / D) tokens. Its window starts at place clamp(p − K div 2, 0, n − K) and holds min(K, n).

    Args:
        qkv: (B, H, W, 3, heads, d).
        kernel_size, dilation: K and D along H and along W.
        scale: factor on the logits.

    Returns:
        (B, H, W, heads · d).
    """
    rows, columns = (Axis(n, k, d) for n, k, d in zip(qkv.shape[1:3], kernel_size, dilation, strict=True))
    return gathered(qkv, rows, columns, slot_tables(rows, columns, qkv.device), scale=scale)


@register_mechanism(
    "neighborhood",
    title="Neighborhood",
    paper="arXiv:2204.07143",
    year=2022,
    pattern="static",
    complexity="O(N)",
    impls=("tiled", "eager", "natten", "flex"),
    per_stage={"kernel_size": 7},
    goldens=("natten_na2d", "natten_module_rpb"),
)
class NeighborhoodAttention(WindowPerQuery):
    """Attention to the nearest K × K tokens; at a border the window moves inwards, and stays full.

    Where a dilation class has fewer than K tokens along an axis, the window shrinks to them: a kernel at
    least as large as the map gives full attention.
    Cost: 4·N·C² (projection) + 2·N·K²·C (attention) MACs, each K at most ceil(length / dilation); with
    ``padding="official"`` N·C² + 3·N'·C² and 2·N'·K²·C, N' = tokens of the padded map.
    ``tiled`` issues more, 169 keys per query for K = 7 on large maps, and is 2–5 times faster on a CPU.

    Args:
        site: place in the backbone.
        kernel_size: side K of the window; odd.
        dilation: distance between neighbouring keys.
        qkv_bias: learn a bias in the query, key and value projections.
        position_bias: learn a bias per head and offset of the key from the query, (2K − 1)² of them.
        padding: ``masked`` (there is none) or ``official`` (NATTEN 0.14: a map smaller than K · dilation is
            zero-padded to it before the projections, and padding takes part in attention).
        qk_scale: factor on the logits; None for head_dim^-1/2.
        impl: ``tiled`` (7 × 7 queries share a block of keys, under a mask), ``eager`` (every query gathers
            its keys), ``natten`` (without position bias, on maps of at least K · dilation a side) or ``flex``
            (torch's generated kernel; no gradients on a CPU).

    Raises:
        ValueError: ``kernel_size`` is not odd and positive, ``dilation`` is not positive, or ``padding`` or
            ``impl`` is unknown.
        ImplementationError: ``impl`` cannot run here.
    """

    def __init__(
        self,
        site: Site,
        *,
        kernel_size: int = 7,
        dilation: int = 1,
        qkv_bias: bool = True,
        position_bias: bool = True,
        padding: str = "masked",
        qk_scale: float | None = None,
        impl: str = "eager",
    ) -> None:
        super().__init__(
            site,
            kernel_size=kernel_size,
            dilation=dilation,
            qkv_bias=qkv_bias,
            position_bias=position_bias,
            padding=padding,
            qk_scale=qk_scale,
            impl=impl,
        )

    @staticmethod
    def full_attention_limit(height: int, width: int) -> dict[str, Any]:
        """Options under which this is full attention on a height × width map."""
        return {"kernel_size": max(height, width) | 1, "position_bias": False}

    @classmethod
    def from_official(cls, case: dict[str, Any], impl: str = "eager") -> tuple[nn.Module, dict[str, str]]:
        """NATTEN's ``na2d`` (0.21) and ``NeighborhoodAttention2D`` (0.14)."""
        kwargs = case["kwargs"]
        _, H, W, C = case["input_shape"]
        if case["mechanism"] == "natten_na2d":
            only(kwargs, head_dim=C // 3 // kwargs["heads"])
            return _OfficialFunction(kwargs, impl), {}
        only(kwargs, dim=C, **NO_DROPOUT)
        module = cls(
            Site(C, kwargs["num_heads"], H, W),
            kernel_size=kwargs["kernel_size"],
            dilation=kwargs.get("dilation") or 1,
            qkv_bias=kwargs.get("qkv_bias", True),
            position_bias=kwargs.get("bias", True),
            padding="official",
            qk_scale=kwargs.get("qk_scale") or None,
            impl=impl,
        )
        return module, {"rpb": "bias_table"}


class _OfficialFunction(nn.Module):
    """``na2d`` on a map whose channels are q, k and v: (B, H, W, 3·C) to (B, H, W, C).

    Raises:
        ValueError: the arguments ask for causal or strided attention, which is another mechanism.
    """

    def __init__(self, kwargs: dict[str, Any], impl: str) -> None:
        super().__init__()
        if impl not in (*IMPLEMENTATIONS, "natten"):
            raise ImplementationError(
                f"implementation {impl!r} is the module's, there is no bare function of it"
            )
        self.impl, self.na2d = impl, natten_na2d() if impl == "natten" else None
        stride, causal = kwargs.get("stride", 1), kwargs.get("is_causal", False)
        if set(_pair(stride)) != {1} or any(_pair(causal)):
            raise ValueError(f"na2d is known with stride 1 and not causal, got {stride} and {causal}")
        self.num_heads = kwargs["heads"]
        self.kernel_size, self.dilation = _pair(kwargs["kernel_size"]), _pair(kwargs.get("dilation", 1))
        self.scale = kwargs.get("scale")
        if isinstance(self.scale, str):  # the manifest writes the default out
            if not self.scale.startswith("head_dim**-0.5"):
                raise ValueError(f"scale must be a number or 'head_dim**-0.5', got {self.scale!r}")
            self.scale = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, H, W, 3·C) to (B, H, W, C)."""
        qkv = x.unflatten(-1, (3, self.num_heads, -1))
        scale = qkv.shape[-1] ** -0.5 if self.scale is None else self.scale
        if self.impl == "eager":
            return neighborhood_attention(qkv, self.kernel_size, self.dilation, scale)
        if self.na2d is not None:
            how = {"kernel_size": self.kernel_size, "dilation": self.dilation, "scale": scale}
            return self.na2d(*qkv.unbind(3), **how).flatten(-2)
        sizes = zip(qkv.shape[1:3], self.kernel_size, self.dilation, strict=True)
        rows, columns = (Axis(length, kernel, dilation) for length, kernel, dilation in sizes)
        return tiled(qkv, rows, columns, tile_tables(rows, columns, qkv.device), scale=scale)


def _pair(value: Any) -> tuple[Any, Any]:
    """One value for both axes, or one for each."""
    return (value[0], value[1]) if isinstance(value, (list, tuple)) else (value, value)
