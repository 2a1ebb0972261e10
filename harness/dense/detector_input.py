"""What torchvision's detectors do to images before and after: here, pad and nothing else.

Resizing and normalising are the data set's business, so that a detector sees what the recipe says; boxes and
masks go back to the original size where they are judged (:mod:`attnbench.harness.dense.judge`).
"""

from typing import Any

from torch import Tensor
from torchvision.models.detection.transform import GeneralizedRCNNTransform

DIVISOR = 32
"""Sides of a batch are multiples of it, zeros added at the bottom and the right after normalising."""


class PadOnly(GeneralizedRCNNTransform):
    """Put images of several sizes into one batch; hand results on as they are."""

    def __init__(self, divisor: int = DIVISOR) -> None:
        super().__init__(1, 1, [0.0], [1.0], size_divisible=divisor)

    def normalize(self, image: Tensor) -> Tensor:
        """As it is."""
        return image

    def resize(self, image: Tensor, target: Any = None) -> tuple[Tensor, Any]:
        """As it is."""
        return image, target

    def postprocess(self, result: Any, image_shapes: Any, original_image_sizes: Any) -> Any:
        """As it is: boxes in pixels of the input, masks as 28 × 28 shares of their boxes."""
        return result
