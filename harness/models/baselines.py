"""timm's Swin Transformer at the sizes of a layout, with the attention it runs pinned.

timm chooses between explicit attention and ``F.scaled_dot_product_attention`` by a process-wide switch
(the environment variable TIMM_FUSED_ATTN), and for Swin leaves the fused one out by default. Here each
attention module is told, so that both can stand in one run, and neither depends on the environment.
Source: ``timm.models.swin_transformer``; Liu et al., 2021, "Swin Transformer", arXiv:2103.14030.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
from timm.models.swin_transformer import SwinTransformer, WindowAttention
from torch import nn

from attnbench.errors import AttnbenchError
from attnbench.harness.models.backbone import Backbone
from attnbench.layouts import Layout
from attnbench.layouts.swin import SWIN_T
from attnbench.registry import get

_TIMMS_OWN = ("embed_dim", "depths", "head_dim", "mlp_ratio", "drop_path_rate", "patch_size")
_ANY_MODELS = ("img_size", "num_classes", "in_chans")


class TimmSwin(SwinTransformer):
    """timm's ``SwinTransformer`` as an object of the harness.

    Of the layout it takes the widths, depths, heads, patch size and drop-path rate; stem and merging are
    Swin's own whatever the layout has, for this is the model to compare with.

    Args:
        layout: sizes.
        resolution: pixels a side of the images; timm computes its shift masks for this size in advance.
        fused: run ``F.scaled_dot_product_attention`` instead of explicit attention.

    Raises:
        AttnbenchError: the resolution is not a multiple of the patch size, which timm requires.
    """

    def __init__(self, layout: Layout, resolution: int, *, fused: bool) -> None:
        if resolution % layout.patch_size:
            raise AttnbenchError(
                f"timm's Swin takes images of a multiple of {layout.patch_size} px, got {resolution}; "
                "choose another --resolution or --baseline"
            )
        widths = [layout.embed_dim * 2**stage for stage in range(len(layout.depths))]
        super().__init__(
            img_size=resolution,
            patch_size=layout.patch_size,
            in_chans=layout.in_chans,
            num_classes=layout.num_classes,
            embed_dim=layout.embed_dim,
            depths=layout.depths,
            num_heads=tuple(width // layout.head_dim for width in widths),
            window_size=7,
            mlp_ratio=layout.mlp_ratio,
            drop_path_rate=layout.drop_path_rate,
        )
        self.layout, self.mechanism = layout, "timm_swin_sdpa" if fused else "timm_swin"
        attention: Any
        for attention in self.attentions():
            attention.fused_attn = fused
            attention.impl = "sdpa" if fused else "eager"

    def attentions(self) -> list[nn.Module]:
        """The attention modules, in order."""
        return [module for module in self.modules() if isinstance(module, WindowAttention)]

    @cached_property
    def _twin(self) -> Backbone:
        """Our ``shifted_window`` at these sizes, on meta tensors: its formulas hold for timm's model."""
        same = {field: getattr(self.layout, field) for field in (*_TIMMS_OWN, *_ANY_MODELS)}
        with torch.device("meta"):
            return Backbone(replace(SWIN_T, **same), get("shifted_window"), options={"padding": "official"})

    def macs(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds per image by phase; see :meth:`Backbone.macs`. The counter confirms them."""
        return self._twin.macs(height, width)

    def macs_backward(self, height: int, width: int) -> dict[str, int]:
        """See :meth:`Backbone.macs_backward`."""
        return self._twin.macs_backward(height, width)

    def macs_useful(self, height: int, width: int) -> dict[str, int]:
        """See :meth:`Backbone.macs_useful`."""
        return self._twin.macs_useful(height, width)

    def macs_dense(self, height: int, width: int) -> dict[str, int]:
        """See :meth:`Backbone.macs_dense`."""
        return self._twin.macs_dense(height, width)


REFERENCES: dict[str, Callable[[Layout, int], TimmSwin]] = {
    "timm_swin": partial(TimmSwin, fused=False),
    "timm_swin_sdpa": partial(TimmSwin, fused=True),
}
"""What builds each reference from a layout and a resolution; named in :mod:`attnbench.baselines`."""
