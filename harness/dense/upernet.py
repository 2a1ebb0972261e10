"""UPerNet: pyramid pooling of the coarsest map, a top-down pyramid, and all levels concatenated.

Paper: Xiao et al., 2018, "Unified Perceptual Parsing for Scene Understanding", arXiv:1807.10221.
Form: mmsegmentation's ``UPerHead`` and ``FCNHead`` in Swin's configuration, which BiFormer took over.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnbench.harness.dense.head_parts import ConvNormAct, Size, classifier, conv_macs, resize

POOL_SIZES = (1, 2, 3, 6)


class UPerNet(nn.Module):
    """Maps of four stages to logits at the finest stride.

    Args:
        channels: of the maps, finest first.
        strides: not used; heads are built alike.
        num_classes: of the logits.
        head_channels: width of all its convolutions.
    """

    def __init__(
        self, channels: Sequence[int], strides: Sequence[int], num_classes: int, *, head_channels: int = 512
    ) -> None:
        super().__init__()
        width = head_channels
        self.pooled = nn.ModuleList(ConvNormAct(channels[-1], width, 1) for _ in POOL_SIZES)
        self.context = ConvNormAct(channels[-1] + len(POOL_SIZES) * width, width, 3)
        self.laterals = nn.ModuleList(ConvNormAct(dim, width, 1) for dim in channels[:-1])
        self.outputs = nn.ModuleList(ConvNormAct(width, width, 3) for _ in channels[:-1])
        self.fuse = ConvNormAct(len(channels) * width, width, 3)
        self.classify = classifier(width, num_classes)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Map four (B, C, H, W) to logits (B, num_classes, H, W) of the finest."""
        levels = [lateral(x) for lateral, x in zip(self.laterals, maps, strict=False)]
        levels.append(self._context(maps[-1]))
        for fine in range(len(levels) - 2, -1, -1):
            levels[fine] = levels[fine] + resize(levels[fine + 1], levels[fine].shape[-2:])
        finest = levels[0].shape[-2:]
        done = [output(x) for output, x in zip(self.outputs, levels, strict=False)] + [levels[-1]]
        return self.classify(self.fuse(torch.cat([resize(x, finest) for x in done], dim=1)))

    def _context(self, x: Tensor) -> Tensor:
        """The coarsest map beside its means over 1, 4, 9 and 36 parts."""
        means = [
            resize(conv(F.adaptive_avg_pool2d(x, size)), x.shape[-2:])
            for conv, size in zip(self.pooled, POOL_SIZES, strict=True)
        ]
        return self.context(torch.cat([x, *means], dim=1))

    def macs(self, sizes: Sequence[Size]) -> dict[str, int]:
        """Multiply-adds per image by phase, for maps of these sizes; pooling and resizing are not counted."""
        pooled = sum(
            conv_macs(conv, (side, side)) for conv, side in zip(self.pooled, POOL_SIZES, strict=True)
        )
        pyramid = 0
        for lateral, output, size in zip(self.laterals, self.outputs, sizes, strict=False):
            pyramid += conv_macs(lateral, size) + conv_macs(output, size)
        return {
            "pooling": pooled + conv_macs(self.context, sizes[-1]),
            "pyramid": pyramid,
            "fuse": conv_macs(self.fuse, sizes[0]),
            "classifier": conv_macs(self.classify, sizes[0]),
        }


class AuxiliaryFCN(nn.Module):
    """A second, shallow classifier on one stage's map; it helps training and is not run in a test."""

    def __init__(self, channels: int, num_classes: int, head_channels: int = 256) -> None:
        super().__init__()
        self.conv = ConvNormAct(channels, head_channels, 3)
        self.classify = classifier(head_channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to logits (B, num_classes, H, W)."""
        return self.classify(self.conv(x))

    def macs(self, size: Size) -> int:
        """Multiply-adds per image for a map of ``size``."""
        return conv_macs(self, size)
