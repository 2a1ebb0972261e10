"""Semantic FPN: a feature pyramid whose levels are brought to the finest one and summed.

Paper: Kirillov et al., 2019, "Panoptic Feature Pyramid Networks", arXiv:1901.02446, section 3.1.
Form: that of mmsegmentation's ``FPN`` and ``FPNHead`` as BiFormer, UniFormer, PVT and Twins run them:
BatchNorm (SyncBN) where the paper has GroupNorm.
"""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from attnbench.harness.dense.head_parts import (
    ConvNormAct,
    Size,
    classifier,
    conv_macs,
    feature_pyramid,
    pyramid_macs,
    resize,
    run_pyramid,
)


class SemanticFPN(nn.Module):
    """Maps of four stages to logits at the finest stride.

    A level of stride s, relative to the finest, passes max(1, log₂ s) times through a 3 × 3 convolution,
    norm and ReLU, each followed by a bilinear ×2 unless it is the finest level.

    Args:
        channels: of the maps, finest first.
        strides: of the maps in pixels, each twice the one before.
        num_classes: of the logits.
        pyramid_channels: width of the pyramid.
        head_channels: width of what is summed.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        *,
        pyramid_channels: int = 256,
        head_channels: int = 128,
    ) -> None:
        super().__init__()
        self.pyramid = feature_pyramid(channels, pyramid_channels)
        self.levels = nn.ModuleList()
        for stride in strides:
            doublings = int(math.log2(stride // strides[0]))
            parts: list[nn.Module] = []
            for step in range(max(1, doublings)):
                parts.append(ConvNormAct(head_channels if step else pyramid_channels, head_channels, 3))
                if doublings:
                    parts.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
            self.levels.append(nn.Sequential(*parts))
        self.classify = classifier(head_channels, num_classes)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Map four (B, C, H, W) to logits (B, num_classes, H, W) of the finest."""
        levels = [level(x) for level, x in zip(self.levels, run_pyramid(self.pyramid, maps), strict=True)]
        total = levels[0]
        for x in levels[1:]:
            total = total + resize(x, total.shape[-2:])
        return self.classify(total)

    def macs(self, sizes: Sequence[Size]) -> dict[str, int]:
        """Multiply-adds per image by phase, for maps of these sizes; resizing is not counted."""
        levels = 0
        for level, (rows, columns) in zip(self.levels, sizes, strict=True):
            convs = [part for part in level.children() if isinstance(part, ConvNormAct)]
            for step, conv in enumerate(convs):
                levels += conv_macs(conv, (rows * 2**step, columns * 2**step))
        return {
            "pyramid": pyramid_macs(self.pyramid, sizes),
            "levels": levels,
            "classifier": conv_macs(self.classify, sizes[0]),
        }
