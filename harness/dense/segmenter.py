"""A backbone with a head for semantic segmentation: logits of pixels, and the loss of its labels."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from attnbench.harness.dense.head_parts import resize
from attnbench.harness.dense.semantic_fpn import SemanticFPN
from attnbench.harness.dense.stage_maps import StageMaps
from attnbench.harness.dense.upernet import AuxiliaryFCN, UPerNet

IGNORE = 255
AUXILIARY_STAGE, AUXILIARY_WEIGHT = 2, 0.4


class Segmenter(nn.Module):
    """Images to logits of pixels at the finest stride of the backbone.

    Args:
        maps: the backbone's four stages.
        head: ``SemanticFPN``, or ``UPerNet``, which has an auxiliary head on stage 3 while it trains.
        auxiliary: that head, or ``None``.
    """

    def __init__(self, maps: StageMaps, head: nn.Module, auxiliary: AuxiliaryFCN | None = None) -> None:
        super().__init__()
        self.maps, self.head, self.auxiliary = maps, head, auxiliary

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, in_chans, height, width) to logits (B, num_classes, H, W), H and W at the finest stride."""
        return self.head(self.maps(images))

    def losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The terms whose sum is minimised.

        Args:
            images: (B, in_chans, height, width).
            labels: (B, height, width), whole numbers, ``IGNORE`` for pixels that do not count.
        """
        maps = self.maps(images)
        found = {"segmentation": pixel_loss(self.head(maps), labels)}
        if self.auxiliary is not None:
            found["auxiliary"] = AUXILIARY_WEIGHT * pixel_loss(self.auxiliary(maps[AUXILIARY_STAGE]), labels)
        return found

    def macs(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds of a test, per image of height × width pixels, by phase (no auxiliary head)."""
        head: Any = self.head
        return {**self.maps.macs(height, width), **head.macs(self.maps.sizes(height, width))}


def pixel_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of logits resized to the labels, averaged over all pixels, those ignored with zero.

    mmsegmentation's default (``avg_non_ignore=False``); a crop that is mostly void weighs less.
    """
    logits = resize(logits, labels.shape[-2:])
    return F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none").mean()


def make_segmenter(head: str, maps: StageMaps, num_classes: int, **widths: int) -> Segmenter:
    """A segmenter with the head ``sem_fpn`` or ``upernet``; ``widths`` are the head's."""
    if head == "sem_fpn":
        return Segmenter(maps, SemanticFPN(maps.channels, maps.strides, num_classes, **widths))
    auxiliary = AuxiliaryFCN(
        maps.channels[AUXILIARY_STAGE], num_classes, widths.get("head_channels", 512) // 2
    )
    return Segmenter(maps, UPerNet(maps.channels, maps.strides, num_classes, **widths), auxiliary)
