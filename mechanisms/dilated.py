"""Dilated neighborhood attention: blocks alternate between near neighbours and far, spaced ones.

Paper: Hassani and Shi, 2022, "Dilated Neighborhood Attention Transformer", arXiv:2209.15001.
Code: written from the paper on the same functions as ``neighborhood``, which are proven against NATTEN.
Differs from the paper by default: where a dilation class is smaller than the window, the window shrinks
to it; the official module's zero padding is ``padding="official"``.
"""

from typing import Any

from attnbench.mechanisms._neighborhood_module import WindowPerQuery
from attnbench.registry import Site, register_mechanism


@register_mechanism(
    "dilated",
    title="Dilated neighborhood",
    paper="arXiv:2209.15001",
    year=2022,
    pattern="static",
    complexity="O(N)",
    impls=("tiled", "eager", "natten", "flex"),
    per_stage={"kernel_size": 7, "odd_dilation": (8, 4, 2, 1)},
)
class DilatedNeighborhoodAttention(WindowPerQuery):
    """Attention to the nearest K × K tokens among those a multiple of the dilation away on both axes.

    The stage defaults are those of DiNATs-Tiny, whose layout is Swin-T's: at 224 pixels the odd blocks of
    stages 1 to 3 see the whole map in steps of 8, 4 and 2.
    Cost: 4·N·C² (projection) + 2·N·K²·C (attention) MACs, each K at most ceil(length / dilation); with
    ``padding="official"`` N·C² + 3·N'·C² and 2·N'·K²·C, N' = tokens of the padded map.

    Args:
        site: place in the backbone; even and odd blocks differ.
        kernel_size: side K of the window; odd.
        dilation: distance between neighbouring keys; None for 1 in even blocks and ``odd_dilation`` in
            odd ones.
        odd_dilation: dilation of the odd blocks.
        qkv_bias: learn a bias in the query, key and value projections.
        position_bias: learn a bias per head and offset of the key from the query in dilated steps.
        padding: ``masked`` (there is none) or ``official`` (NATTEN 0.14: a map smaller than K · dilation is
            zero-padded to it before the projections, and padding takes part in attention).
        qk_scale: factor on the logits; None for head_dim^-1/2.
        impl: ``tiled`` (each dilation class is cut into 7 × 7 queries that share a block of keys, under a
            mask), ``eager`` (every query gathers its keys), ``natten`` (without position bias, on maps of
            at least K · dilation a side) or ``flex`` (torch's generated kernel; no gradients on a CPU).

    Raises:
        ValueError: ``kernel_size`` is not odd and positive, a dilation is not positive, or ``padding`` or
            ``impl`` is unknown.
        ImplementationError: ``impl`` cannot run here.
    """

    def __init__(
        self,
        site: Site,
        *,
        kernel_size: int = 7,
        dilation: int | None = None,
        odd_dilation: int = 1,
        qkv_bias: bool = True,
        position_bias: bool = True,
        padding: str = "masked",
        qk_scale: float | None = None,
        impl: str = "eager",
    ) -> None:
        if odd_dilation < 1:
            raise ValueError(f"odd_dilation must be positive, got {odd_dilation}")
        if dilation is None:
            dilation = odd_dilation if site.block % 2 else 1
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
        return {"kernel_size": max(height, width) | 1, "dilation": 1, "position_bias": False}
