"""RetinaNet by torchvision, brought to mmdetection's form.

Paper: Lin et al., 2017, "Focal Loss for Dense Object Detection", arXiv:1708.02002. Form: mmdetection's
``retinanet_r50_fpn``, which BiFormer, PVT, Twins and Swin put their backbones into. What is overridden, and
what still differs, is listed in :mod:`attnbench.heads`.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead
from torchvision.ops import boxes as box_ops
from torchvision.ops import sigmoid_focal_loss
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from attnbench.harness.dense.boxes import RATIOS, ClaimingMatcher, ClampedBoxCoder, RealAnchors
from attnbench.harness.dense.detector_input import PadOnly
from attnbench.harness.dense.head_parts import Size, conv_macs, feature_pyramid, pyramid_macs, run_pyramid
from attnbench.harness.dense.stage_maps import StageMaps

PAPERS_WIDTH = 256
OCTAVE_BASE, OCTAVES = 4, 3
"""Anchors of a level: 4·stride·2^(0, 1/3, 2/3), each in three ratios."""


class RetinaNetPyramid(nn.Module):
    """Maps of stages 2 to 4 to five levels: a pyramid, and two by stride-2 convolutions of stage 4's map."""

    def __init__(self, maps: StageMaps, width: int = 256) -> None:
        super().__init__()
        self.maps, self.out_channels = maps, width
        self.fpn = feature_pyramid(maps.channels, width, _TwoMoreLevels(maps.channels[-1], width))
        last = maps.strides[-1]
        self.strides = [*maps.strides, 2 * last, 4 * last]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map (B, in_chans, height, width) to five (B, width, H, W)."""
        return {str(level): x for level, x in enumerate(run_pyramid(self.fpn, self.maps(images)))}

    def sizes(self, height: int, width: int) -> list[Size]:
        """Rows and columns of each level."""
        sizes = self.maps.sizes(height, width)
        for _ in range(2):
            sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
        return sizes


class _TwoMoreLevels(LastLevelP6P7):
    """P6 from C5 and P7 from P6, no ReLU between them (torchvision: ReLU; from P5 if as wide)."""

    def forward(self, p: list[Tensor], c: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        sixth = self.p6(c[-1])
        return [*p, sixth, self.p7(sixth)], [*names, "p6", "p7"]


class _Head(RetinaNetHead):
    """Losses summed over the batch and divided by all its positives (torchvision: per image, then mean).

    The papers' initial σ of 0.01 is made for 256 channels. In a narrower head four convolutions of that σ
    leave nothing of their input; there they begin with σ = 1/√inputs, which keeps its size.
    """

    def __init__(self, width: int, num_anchors: int, num_classes: int) -> None:
        super().__init__(width, num_anchors, num_classes)
        if width < PAPERS_WIDTH:
            for layer in self.modules():
                if isinstance(layer, nn.Conv2d):
                    inside = layer.out_channels == width
                    std = (9 * width) ** -0.5 if inside else 0.01 * (PAPERS_WIDTH / width) ** 0.5
                    nn.init.normal_(layer.weight, std=std)

    def compute_loss(
        self,
        targets: list[dict[str, Tensor]],
        head_outputs: dict[str, Tensor],
        anchors: list[Tensor],
        matched_idxs: list[Tensor],
    ) -> dict[str, Tensor]:
        coder: Any = self.regression_head.box_coder
        focal, boxes, positives = [], [], 0
        outputs = zip(head_outputs["cls_logits"], head_outputs["bbox_regression"], strict=True)
        for target, (logits, deltas), cells, matched in zip(
            targets, outputs, anchors, matched_idxs, strict=True
        ):
            found = matched >= 0
            positives += max(1, int(found.sum()))  # mmdetection counts an image without any as one
            wanted = torch.zeros_like(logits)
            wanted[found, target["labels"][matched[found]]] = 1.0
            counted = matched != ClaimingMatcher.BETWEEN_THRESHOLDS
            focal.append(sigmoid_focal_loss(logits[counted], wanted[counted], reduction="sum"))
            goal = coder.encode_single(target["boxes"][matched[found]], cells[found])
            boxes.append(F.l1_loss(deltas[found], goal, reduction="sum"))
        return {
            "classification": torch.stack(focal).sum() / positives,
            "boxes": torch.stack(boxes).sum() / positives,
        }


class Detector(RetinaNet):
    """RetinaNet on the maps of a backbone.

    Args:
        maps: stages 2 to 4.
        num_classes: without background.
        width: of pyramid and head.
        best_of_anchor: what a level's 1,000 candidates are: anchors by their best class (mmdetection's
            older releases), or pairs of anchor and class (torchvision).
    """

    def __init__(
        self, maps: StageMaps, num_classes: int, *, width: int = PAPERS_WIDTH, best_of_anchor: bool = True
    ) -> None:
        pyramid = RetinaNetPyramid(maps, width)
        sizes = [[OCTAVE_BASE * s * 2 ** (i / OCTAVES) for i in range(OCTAVES)] for s in pyramid.strides]
        super().__init__(
            pyramid,
            num_classes,
            anchor_generator=RealAnchors(sizes, pyramid.strides),
            head=_Head(width, OCTAVES * len(RATIOS), num_classes),
            proposal_matcher=ClaimingMatcher(0.5, 0.4, least=0.0),
            score_thresh=0.05,
            nms_thresh=0.5,
            detections_per_img=100,
            topk_candidates=1000,
        )
        self.transform = PadOnly()
        self.box_coder = ClampedBoxCoder((1.0, 1.0, 1.0, 1.0))
        self.best_of_anchor = best_of_anchor

    def losses(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The terms whose sum is minimised; ``boxes`` (n, 4) and ``labels`` (n,) from 0 for each image."""
        return self(images, targets)

    def postprocess_detections(
        self, head_outputs: Any, anchors: Any, image_shapes: Any
    ) -> list[dict[str, Tensor]]:
        """Boxes, scores and labels of each image, best first."""
        if not self.best_of_anchor:
            return super().postprocess_detections(head_outputs, anchors, image_shapes)
        return [
            self._of_image(
                [level[image] for level in head_outputs["cls_logits"]],
                [level[image] for level in head_outputs["bbox_regression"]],
                anchors[image],
                shape,
            )
            for image, shape in enumerate(image_shapes)
        ]

    def _of_image(
        self, logits: list[Tensor], deltas: list[Tensor], anchors: list[Tensor], shape: Size
    ) -> dict[str, Tensor]:
        boxes, scores = [], []
        for of_level, change, cells in zip(logits, deltas, anchors, strict=True):
            chance = of_level.sigmoid()
            best = chance.amax(1).topk(min(self.topk_candidates, len(chance))).indices
            decoded = self.box_coder.decode_single(change[best], cells[best])
            boxes.append(box_ops.clip_boxes_to_image(decoded, shape))
            scores.append(chance[best])
        chance = torch.cat(scores)
        place, labels = (chance > self.score_thresh).nonzero(as_tuple=True)
        box, score = torch.cat(boxes)[place], chance[place, labels]
        keep = box_ops.batched_nms(box, score, labels, self.nms_thresh)[: self.detections_per_img]
        return {"boxes": box[keep], "scores": score[keep], "labels": labels[keep]}

    def macs(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds of a test, per image of height × width pixels (a multiple of 32), by phase."""
        pyramid: Any = self.backbone
        sizes = pyramid.sizes(height, width)
        extra = pyramid.fpn.extra_blocks
        more = conv_macs(extra.p6, sizes[3]) + conv_macs(extra.p7, sizes[4])
        return {
            **pyramid.maps.macs(height, width),
            "pyramid": pyramid_macs(pyramid.fpn, sizes[:3]) + more,
            "detection_head": sum(conv_macs(self.head, size) for size in sizes),
        }

    def issue(self, images: Tensor) -> list[Tensor]:
        """Run all that multiplies, on a batch (B, in_chans, height, width), without choosing boxes."""
        outputs = self.head(list(self.backbone(images).values()))
        return list(outputs.values())
