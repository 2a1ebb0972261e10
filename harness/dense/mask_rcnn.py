"""Mask R-CNN by torchvision, brought to mmdetection's form.

Paper: He et al., 2017, "Mask R-CNN", arXiv:1703.06870. Form: mmdetection's ``mask_rcnn_r50_fpn``, which
BiFormer, UniFormer and Swin put their backbones into. What is overridden, and what still differs, is listed
in :mod:`attnbench.heads`.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_inference
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import MultiScaleRoIAlign, roi_align
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.ops.poolers import LevelMapper

from attnbench.harness.dense.boxes import ClaimingMatcher, ClampedBoxCoder, RealAnchors
from attnbench.harness.dense.detector_input import PadOnly
from attnbench.harness.dense.head_parts import Size, conv_macs, feature_pyramid, pyramid_macs, run_pyramid
from attnbench.harness.dense.stage_maps import StageMaps

ANCHOR_SCALE = 8
PROPOSALS, MASKS = 1000, 100
"""Boxes that a test classifies and masks that it draws; mmdetection's counter takes as many."""


class MaskPyramid(nn.Module):
    """Maps of all stages to five levels: a pyramid, and every second place of its coarsest level."""

    def __init__(self, maps: StageMaps, width: int = 256) -> None:
        super().__init__()
        self.maps, self.out_channels = maps, width
        self.fpn = feature_pyramid(maps.channels, width, LastLevelMaxPool())
        self.strides = [*maps.strides, 2 * maps.strides[-1]]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map (B, in_chans, height, width) to five (B, width, H, W)."""
        return {str(level): x for level, x in enumerate(run_pyramid(self.fpn, self.maps(images)))}

    def sizes(self, height: int, width: int) -> list[Size]:
        """Rows and columns of each level."""
        sizes = self.maps.sizes(height, width)
        return [*sizes, (-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2))]


class AlignedRoIPool(MultiScaleRoIAlign):
    """RoIAlign with half-pixel alignment, as many samples as a bin has pixels, at fixed strides.

    torchvision: no alignment, 2 × 2 samples, strides guessed from the first batch. The level of a box of
    side s is ⌊log₂(s / 56)⌋ above the finest, for a finest stride of 4.
    """

    def __init__(self, strides: list[int], output_size: int) -> None:
        super().__init__([str(level) for level in range(len(strides))], output_size, sampling_ratio=0)
        self.levels = list(zip(self.featmap_names, strides, strict=True))
        self.mapper = LevelMapper(0, len(strides) - 1, canonical_scale=14 * strides[0], canonical_level=0)

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: Any = None) -> Tensor:
        """(boxes, C, output_size, output_size) of boxes (n, 4) for each image."""
        index = torch.cat([b.new_full((len(b), 1), image) for image, b in enumerate(boxes)])
        rois = torch.cat([index, torch.cat(boxes)], dim=1)
        level_of = self.mapper(boxes)
        first = x[self.featmap_names[0]]
        pooled = first.new_zeros(len(rois), first.shape[1], *self.output_size)
        for level, (name, stride) in enumerate(self.levels):
            chosen = (level_of == level).nonzero()[:, 0]
            found = roi_align(x[name], rois[chosen].to(x[name].dtype), self.output_size, 1 / stride, 0, True)
            pooled = pooled.index_put((chosen,), found.to(pooled.dtype))
        return pooled


class _Proposals(RegionProposalNetwork):
    """L1 loss of boxes (torchvision: smooth L1 with β = 1/9)."""

    def compute_loss(
        self, objectness: Tensor, pred_bbox_deltas: Tensor, labels: Any, regression_targets: Any
    ) -> tuple[Tensor, Tensor]:
        """Of a sample of anchors: cross-entropy of objects, L1 of boxes over the size of the sample."""
        positive, negative = (torch.cat(part).nonzero()[:, 0] for part in self.fg_bg_sampler(labels))
        sample = torch.cat([positive, negative])
        goal = torch.cat(regression_targets)
        boxes = F.l1_loss(pred_bbox_deltas[positive], goal[positive], reduction="sum") / sample.numel()
        wanted = torch.cat(labels)[sample]
        return F.binary_cross_entropy_with_logits(objectness.flatten()[sample], wanted), boxes


class _RoIHeads(RoIHeads):
    """L1 loss of boxes; targets of masks aligned by half a pixel and cut at one half."""

    def forward(
        self, features: Any, proposals: Any, image_shapes: Any, targets: Any = None
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Detections of a test, or losses in training; see ``RoIHeads``."""
        if self.training:
            return [], self._losses(features, proposals, image_shapes, targets)
        logits, deltas = self._boxes(features, proposals, image_shapes)
        found = zip(*self.postprocess_detections(logits, deltas, proposals, image_shapes), strict=True)
        result = [{"boxes": b, "scores": s, "labels": label} for b, s, label in found]
        masks = self._masks(features, [r["boxes"] for r in result], image_shapes)
        for mask, r in zip(maskrcnn_inference(masks, [r["labels"] for r in result]), result, strict=True):
            r["masks"] = mask
        return result, {}

    def _boxes(self, features: Any, boxes: list[Tensor], shapes: Any) -> tuple[Tensor, Tensor]:
        return self.box_predictor(self.box_head(self.box_roi_pool(features, boxes, shapes)))

    def _masks(self, features: Any, boxes: list[Tensor], shapes: Any) -> Tensor:
        return self.mask_predictor(self.mask_head(self.mask_roi_pool(features, boxes, shapes)))

    def _losses(self, features: Any, proposals: Any, shapes: Any, targets: Any) -> dict[str, Tensor]:
        boxes, matched, labels, goals = self.select_training_samples(proposals, targets)
        logits, deltas = self._boxes(features, boxes, shapes)
        label, goal = torch.cat(labels), torch.cat(list(goals))
        positive = (label > 0).nonzero()[:, 0]
        chosen = deltas.view(len(label), -1, 4)[positive, label[positive]]
        return {
            "classes": F.cross_entropy(logits, label),
            "boxes": F.l1_loss(chosen, goal[positive], reduction="sum") / label.numel(),
            "masks": self._mask_loss(features, boxes, matched, labels, shapes, targets),
        }

    def _mask_loss(
        self, features: Any, boxes: Any, matched: Any, labels: Any, shapes: Any, targets: Any
    ) -> Tensor:
        positive = [label > 0 for label in labels]
        inside = [box[p] for box, p in zip(boxes, positive, strict=True)]
        logits = self._masks(features, inside, shapes)
        wanted = [
            _mask_targets(target["masks"], box, match[p], logits.shape[-1])
            for target, box, match, p in zip(targets, inside, matched, positive, strict=True)
        ]
        label = torch.cat([of_image[p] for of_image, p in zip(labels, positive, strict=True)])
        if not len(label):
            return logits.sum() * 0  # a mean over nothing is not a number
        own = logits[torch.arange(len(label), device=label.device), label]
        return F.binary_cross_entropy_with_logits(own, torch.cat(wanted))


def _mask_targets(masks: Tensor, boxes: Tensor, matched: Tensor, side: int) -> Tensor:
    """(n, side, side) of 0 and 1: the matched mask inside each box."""
    rois = torch.cat([matched[:, None].to(boxes), boxes], dim=1)
    return (roi_align(masks[:, None].to(boxes), rois, side, 1.0, 0, True)[:, 0] >= 0.5).to(boxes)


class Detector(MaskRCNN):
    """Mask R-CNN on the maps of a backbone.

    Args:
        maps: all four stages.
        num_classes: without background; targets and results count from 1, 0 is the background.
        width: of pyramid and mask head.
        box_width: of the two layers that classify a box.
        candidates: boxes of a level, in training, that are looked through for proposals.
        box_samples: boxes of an image that are trained on.
    """

    def __init__(
        self,
        maps: StageMaps,
        num_classes: int,
        *,
        width: int = 256,
        box_width: int = 1024,
        candidates: int = 2000,
        box_samples: int = 512,
    ) -> None:
        pyramid = MaskPyramid(maps, width)
        anchors = RealAnchors([[ANCHOR_SCALE * stride] for stride in pyramid.strides], pyramid.strides)
        super().__init__(
            pyramid,
            rpn_anchor_generator=anchors,
            rpn_pre_nms_top_n_train=candidates,
            rpn_post_nms_top_n_train=PROPOSALS,
            rpn_post_nms_top_n_test=PROPOSALS,
            box_batch_size_per_image=box_samples,
            box_roi_pool=AlignedRoIPool(maps.strides, 7),
            box_head=TwoMLPHead(width * 7**2, box_width),
            box_predictor=FastRCNNPredictor(box_width, num_classes + 1),
            box_detections_per_img=MASKS,
            mask_roi_pool=AlignedRoIPool(maps.strides, 14),
            mask_head=MaskRCNNHeads(width, (width,) * 4, 1),
            mask_predictor=MaskRCNNPredictor(width, width, num_classes + 1),
        )
        self.transform = PadOnly()
        self.rpn.__class__ = _Proposals
        self.rpn.proposal_matcher = ClaimingMatcher(0.7, 0.3, least=0.3)
        self.rpn.box_coder = ClampedBoxCoder((1.0, 1.0, 1.0, 1.0))
        self.roi_heads.__class__ = _RoIHeads
        self.roi_heads.proposal_matcher = ClaimingMatcher(0.5, 0.5, least=0.5)
        self.roi_heads.box_coder = ClampedBoxCoder((10.0, 10.0, 5.0, 5.0))
        self._initialise()

    def _initialise(self) -> None:
        """mmdetection's start of the box head: Xavier-uniform, then normal of σ = 0.01 and 0.001."""
        heads: Any = self.roi_heads
        for layer in (heads.box_head.fc6, heads.box_head.fc7):
            nn.init.xavier_uniform_(layer.weight)
        nn.init.normal_(heads.box_predictor.cls_score.weight, std=0.01)
        nn.init.normal_(heads.box_predictor.bbox_pred.weight, std=0.001)
        for layer in (heads.box_head.fc6, heads.box_head.fc7, *heads.box_predictor.children()):
            nn.init.zeros_(layer.bias)

    def losses(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The terms whose sum is minimised: ``boxes``, ``labels`` (from 1) and ``masks`` for each image."""
        return self(images, targets)

    def macs(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds of a test, per image of height × width pixels (a multiple of 32), by phase.

        As mmdetection counts: 1,000 boxes are classified and 100 masks drawn, however many are found.
        """
        pyramid: Any = self.backbone
        heads: Any = self.roi_heads
        sizes = pyramid.sizes(height, width)
        linear = sum(m.weight.numel() for m in heads.modules() if isinstance(m, nn.Linear))
        side = heads.mask_roi_pool.output_size[0]
        drawn = conv_macs(heads.mask_head, (side, side)) + _predictor_macs(heads.mask_predictor, side)
        return {
            **pyramid.maps.macs(height, width),
            "pyramid": pyramid_macs(pyramid.fpn, sizes[:4]),
            "proposals": sum(conv_macs(self.rpn.head, size) for size in sizes),
            "box_head": PROPOSALS * linear,
            "mask_head": MASKS * drawn,
        }

    def issue(self, images: Tensor) -> list[Tensor]:
        """Run all that multiplies, on a batch (B, in_chans, height, width), with boxes at a fixed place.

        Each image has 1,000 boxes classified and 100 masks drawn.
        """
        features = self.backbone(images)
        objectness, deltas = self.rpn.head(list(features.values()))
        heads: Any = self.roi_heads
        pooled = self._pooled(features, PROPOSALS * len(images), 7)
        scores, boxes = heads.box_predictor(heads.box_head(pooled))
        drawn = heads.mask_head(self._pooled(features, MASKS * len(images), 14))
        return [*objectness, *deltas, scores, boxes, heads.mask_predictor(drawn)]

    def _pooled(self, features: dict[str, Tensor], count: int, side: int) -> Tensor:
        """RoIAlign of one box each; on meta tensors, where it has no rule, its shape."""
        finest = features["0"]
        if finest.device.type == "meta":
            return finest.new_empty(count, finest.shape[1], side, side)
        box = finest.new_tensor([0.0, 0.0, 64.0, 64.0]).expand(count // len(finest), 4)
        return AlignedRoIPool(self.backbone.maps.strides, side)(features, [box] * len(finest))


def _predictor_macs(predictor: Any, side: int) -> int:
    """Multiply-adds of a mask: a transposed convolution on side × side, a 1 × 1 on twice the side."""
    return side**2 * predictor.conv5_mask.weight.numel() + conv_macs(predictor, (2 * side, 2 * side))
