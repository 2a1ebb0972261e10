"""Anchors, box coding and matching in mmdetection's form, where torchvision's differs.

Form: mmdetection's ``AnchorGenerator``, ``DeltaXYWHBBoxCoder`` and ``MaxIoUAssigner``. Each class overrides
the one method of torchvision's in which the two differ.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

RATIOS = (0.5, 1.0, 2.0)


class RealAnchors(AnchorGenerator):
    """Anchors of exact real sizes at fixed strides (torchvision: whole numbers, stride from the map's size).

    Anchors of a cell are centred at its upper left corner, row by row; at each place ratio by ratio.

    Args:
        sizes: of each level, sides of the square anchors in pixels.
        strides: of each level, in pixels.
    """

    def __init__(self, sizes: Sequence[Sequence[float]], strides: Sequence[int]) -> None:
        self.strides = list(strides)
        super().__init__(tuple(map(tuple, sizes)), (RATIOS,) * len(sizes))

    def generate_anchors(
        self,
        scales: Any,
        aspect_ratios: Any,
        dtype: torch.dtype = torch.float32,
        device: Any = "cpu",
    ) -> Tensor:
        """(ratios · scales, 4) anchors of one cell, centred at 0; ratio = height / width."""
        sides = torch.as_tensor(scales, dtype=dtype, device=device)
        tall = torch.as_tensor(aspect_ratios, dtype=dtype, device=device).sqrt()
        heights, widths = (tall[:, None] * sides).flatten() / 2, (sides / tall[:, None]).flatten() / 2
        return torch.stack([-widths, -heights, widths, heights], dim=1)

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """All anchors (n, 4) for each image of a batch."""
        like = feature_maps[0]
        self.set_cell_anchors(like.dtype, like.device)
        strides: Any = [[torch.tensor(s, device=like.device)] * 2 for s in self.strides]
        sizes: Any = [x.shape[-2:] for x in feature_maps]
        anchors = torch.cat(self.grid_anchors(sizes, strides))
        return [anchors for _ in image_list.image_sizes]


class ClampedBoxCoder(BoxCoder):
    """Deltas of width and height are clamped on both sides to ±ln(1000/16); torchvision limits them above."""

    def decode_single(self, rel_codes: Tensor, boxes: Tensor) -> Tensor:
        """Boxes (n, 4·k) of deltas (n, 4·k) on boxes (n, 4)."""
        deltas = rel_codes.reshape(len(rel_codes), -1, 4)
        least = deltas.new_tensor([-self.bbox_xform_clip * w for w in self.weights[2:]])
        deltas = torch.cat([deltas[..., :2], deltas[..., 2:].maximum(least)], dim=-1)
        return super().decode_single(deltas.reshape(rel_codes.shape), boxes)


class ClaimingMatcher(Matcher):
    """Each object claims the boxes that overlap it most, whatever else they were matched to.

    torchvision keeps a claimed box with the object that it overlaps most itself. Of several claims the last
    object's holds, as in ``MaxIoUAssigner``.

    Args:
        high, low: IoU from which a box is an object, below which it is background; between them neither.
        least: IoU that an object's best box must have to be claimed.
    """

    def __init__(self, high: float, low: float, least: float) -> None:
        super().__init__(high, low, allow_low_quality_matches=True)
        self.least = least

    def set_low_quality_matches_(
        self, matches: Tensor, all_matches: Tensor, match_quality_matrix: Tensor
    ) -> None:
        """Claim, in place: ``match_quality_matrix`` is (objects, boxes) of IoU."""
        best = match_quality_matrix.max(dim=1).values
        for index, quality in enumerate(best.tolist()):
            if quality >= self.least:
                matches[match_quality_matrix[index] == best[index]] = index
