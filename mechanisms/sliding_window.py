"""Sliding-window attention: every token attends to the K × K square centred on it.

Paper: Ramachandran et al., 2019, "Stand-Alone Self-Attention in Vision Models", arXiv:1906.05909.
Code: written from the definition; checked against full attention under a sliding-window mask.
Differs from the paper: logits are scaled by head_dim^-1/2, and position is a learned bias per head and
offset instead of row and column embeddings added to the keys. Keys outside the map are left out of the
softmax; that rule at the border is what sets it apart from ``neighborhood``.
"""

from typing import Any

from attnbench.mechanisms._neighborhood_module import WindowPerQuery
from attnbench.registry import Site, register_mechanism


@register_mechanism(
    "sliding_window",
    title="Sliding window",
    paper="arXiv:1906.05909",
    year=2019,
    pattern="static",
    complexity="O(N)",
    impls=("tiled", "eager", "flex"),
    per_stage={"kernel_size": 7},
)
class SlidingWindowAttention(WindowPerQuery):
    """Attention to the K × K tokens centred on the query; fewer at a border.

    Cost: 4·N·C² (projection) + 2·N·K²·C (attention) MACs; all K² keys are counted, also where the border
    masks some. A kernel of at least twice the map's side less one gives full attention.

    Args:
        site: place in the backbone.
        kernel_size: side K of the window; odd.
        qkv_bias: learn a bias in the query, key and value projections.
        position_bias: learn a bias per head and offset of the key from the query, K² of them.
        impl: ``tiled`` (7 × 7 queries share a block of keys, under a mask), ``eager`` (every query
            gathers its keys) or ``flex`` (torch's generated kernel; no gradients on a CPU).

    Raises:
        ValueError: ``kernel_size`` is not odd and positive, or ``impl`` is unknown.
    """

    def __init__(
        self,
        site: Site,
        *,
        kernel_size: int = 7,
        qkv_bias: bool = True,
        position_bias: bool = True,
        impl: str = "eager",
    ) -> None:
        super().__init__(
            site,
            kernel_size=kernel_size,
            inward=False,
            qkv_bias=qkv_bias,
            position_bias=position_bias,
            impl=impl,
        )

    @staticmethod
    def full_attention_limit(height: int, width: int) -> dict[str, Any]:
        """Options under which this is full attention on a height × width map."""
        return {"kernel_size": 2 * max(height, width) - 1, "position_bias": False}
