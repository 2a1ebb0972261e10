"""Spatial-reduction attention: every token attends to a reduced copy of the map, in every block.

Paper: Wang et al., 2022, "PVT v2: Improved Baselines with Pyramid Vision Transformer", arXiv:2106.13797.
Code: written from the paper; equal to timm's ``pvt_v2``, plain and linear. The same attention as the
global half of ``spatially_separable``.
Differs from the paper by default: on maps that the ratio does not divide the strided convolution sees zero
padding; the official code, ``padding="official"``, leaves trailing tokens out of the keys.
"""

from typing import Any

from torch import nn

from attnbench.mechanisms._official import NO_DROPOUT, only
from attnbench.mechanisms._spatial_reduction import ReducedAttention
from attnbench.registry import Site, register_mechanism


@register_mechanism(
    "spatial_reduction",
    title="Spatial reduction",
    paper="arXiv:2106.13797",
    year=2022,
    pattern="static",
    complexity="O(N^2)",
    impls=("eager", "sdpa"),
    per_stage={"sr_ratio": (8, 4, 2, 1)},
    goldens=("pvt_v2_sra",),
)
class SpatialReductionAttention(ReducedAttention):
    """Attention to a map reduced by a strided convolution, or (``linear``) pooled to 7 × 7.

    Cost, with N_k keys: 2·N·C² + 2·N_k·C² (projection) + r²·N_k·C² (sampling; 49·C² if linear, 0 if r = 1)
    + 2·N·N_k·C (attention) MACs; O(N) if linear.

    Args:
        site: place in the backbone; gives ``dim`` and ``num_heads``.
        sr_ratio: reduction r of each side of the map; without effect if ``linear``.
        linear: average-pool to 7 × 7, then 1 × 1 convolution, LayerNorm and GELU (PVT v2-Li).
        qkv_bias: learn a bias in the query, key and value projections.
        padding: ``masked`` (every token takes part in some key) or ``official`` (trailing rows and columns
            that do not fill a whole r × r patch are in no key).
        impl: ``eager`` or ``sdpa``.

    Raises:
        ValueError: ``sr_ratio`` is not positive, ``padding`` is unknown, or (when run) the map is smaller
            than ``sr_ratio`` with ``padding="official"``.
    """

    @staticmethod
    def full_attention_limit(height: int, width: int) -> dict[str, Any]:
        """Options under which this is full attention on a height × width map."""
        return {"sr_ratio": 1}

    @classmethod
    def from_official(cls, case: dict[str, Any], impl: str = "eager") -> tuple[nn.Module, dict[str, str]]:
        """timm's ``pvt_v2.Attention``; parameter names are the same."""
        kwargs = case["kwargs"]
        _, H, W, C = case["input_shape"]
        only(kwargs, dim=C, **NO_DROPOUT)
        module = cls(
            Site(C, kwargs.get("num_heads", 8), H, W),
            sr_ratio=kwargs.get("sr_ratio", 1),
            linear=kwargs.get("linear_attn", False),
            qkv_bias=kwargs.get("qkv_bias", True),
            padding="official",
            impl=impl,
        )
        return module, {}
