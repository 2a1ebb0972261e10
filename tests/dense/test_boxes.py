"""mmdetection's coding, matching and losses, against their formulas written out."""

import math

import pytest
import torch
from dense_models import make
from torch.nn import functional as F
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from attnbench.harness.dense.boxes import ClaimingMatcher, ClampedBoxCoder


def test_deltas_are_clamped_on_both_sides() -> None:
    coder = ClampedBoxCoder((10.0, 10.0, 5.0, 5.0))
    box = torch.tensor([[0.0, 0.0, 32.0, 16.0]])
    for sign in (1, -1):
        x1, y1, x2, y2 = coder.decode_single(torch.tensor([[0.0, 0.0, 50.0 * sign, 50.0 * sign]]), box)[
            0
        ].tolist()
        assert x2 - x1 == pytest.approx(32 * (1000 / 16) ** sign)
        assert y2 - y1 == pytest.approx(16 * (1000 / 16) ** sign)
    goal = torch.tensor([[3.0, 2.0, 30.0, 18.0]])
    torch.testing.assert_close(coder.decode_single(coder.encode_single(goal, box), box), goal)


def test_several_classes_are_decoded_as_one_would_be() -> None:
    coder = ClampedBoxCoder((10.0, 10.0, 5.0, 5.0))
    boxes, deltas = torch.tensor([[0.0, 0, 8, 8], [4, 4, 20, 12]]), torch.randn(2, 12)
    together = coder.decode(deltas, [boxes])
    for index in range(3):
        alone = coder.decode_single(deltas[:, 4 * index : 4 * index + 4], boxes)
        torch.testing.assert_close(together[:, index], alone)


def test_an_object_claims_its_best_box_also_from_another() -> None:
    quality = torch.tensor([[0.9, 0.60, 0.1, 0.0], [0.3, 0.55, 0.2, 0.0]])
    assert ClaimingMatcher(0.7, 0.3, 0.3)(quality).tolist() == [0, 1, -1, -1]
    assert Matcher(0.7, 0.3, True)(quality).tolist() == [0, 0, -1, -1]  # torchvision's: its own best
    assert ClaimingMatcher(0.7, 0.3, least=0.6)(quality).tolist() == [0, -2, -1, -1]


def assigned(boxes: torch.Tensor, anchors: torch.Tensor, high: float, low: float, least: float) -> list[int]:
    """mmdetection's MaxIoUAssigner, one anchor and one object at a time."""
    iou = box_iou(boxes, anchors)
    found = []
    for column in iou.T.tolist():
        best = max(range(len(column)), key=lambda i: (column[i], -i))
        found.append(best if column[best] >= high else -1 if column[best] < low else -2)
    for number, row in enumerate(iou.tolist()):
        if max(row) >= least:
            for place, value in enumerate(row):
                if value == max(row):
                    found[place] = number
    return found


def test_matching_is_that_of_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(40, 2, generator=generator) * 40
    anchors = torch.cat([corners, corners + 4 + 20 * torch.rand(40, 2, generator=generator)], dim=1)
    boxes = anchors[:6] + torch.rand(6, 4, generator=generator) * 4
    for high, low, least in ((0.5, 0.4, 0.0), (0.7, 0.3, 0.3), (0.5, 0.5, 0.5)):
        expected = assigned(boxes, anchors, high, low, least)
        assert ClaimingMatcher(high, low, least)(box_iou(boxes, anchors)).tolist() == expected


def test_retinanets_losses_are_over_the_batch_by_its_positives() -> None:
    model = make("retinanet", num_classes=3).train()
    images = [torch.randn(3, 64, 64), torch.randn(3, 64, 64)]
    targets = [
        {"boxes": torch.tensor([[4.0, 6, 24, 20], [30, 30, 60, 62]]), "labels": torch.tensor([2, 0])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)},
    ]
    found = model.losses(images, targets)
    maps = list(model.backbone(torch.stack(images)).values())
    outputs = model.head(maps)
    from torchvision.models.detection.image_list import ImageList

    anchors = model.anchor_generator(ImageList(torch.stack(images), [(64, 64)] * 2), maps)[0]
    matched = torch.tensor(assigned(targets[0]["boxes"], anchors, 0.5, 0.4, 0.0))
    positive = matched >= 0
    wanted = torch.zeros_like(outputs["cls_logits"])
    wanted[0, positive, targets[0]["labels"][matched[positive]]] = 1
    p = outputs["cls_logits"].sigmoid()
    focal = torch.where(wanted == 1, -0.25 * (1 - p) ** 2 * p.log(), -0.75 * p**2 * (1 - p).log())
    focal[0, matched == -2] = 0
    count = int(positive.sum()) + 1  # the empty image counts as one
    torch.testing.assert_close(found["classification"], focal.sum() / count, rtol=1e-4, atol=1e-6)
    goals = torch.tensor(
        [
            _deltas(anchors[i].tolist(), targets[0]["boxes"][matched[i]].tolist())
            for i in positive.nonzero()[:, 0]
        ]
    )
    expected = (outputs["bbox_regression"][0, positive] - goals).abs().sum() / count
    torch.testing.assert_close(found["boxes"], expected, rtol=1e-4, atol=1e-6)


def _deltas(anchor: list[float], box: list[float]) -> list[float]:
    w, h = anchor[2] - anchor[0], anchor[3] - anchor[1]
    bw, bh = box[2] - box[0], box[3] - box[1]
    dx = (box[0] + bw / 2 - anchor[0] - w / 2) / w
    dy = (box[1] + bh / 2 - anchor[1] - h / 2) / h
    return [dx, dy, math.log(bw / w), math.log(bh / h)]


def test_candidates_are_anchors_by_their_best_class_or_pairs() -> None:
    model = make("retinanet", num_classes=2).eval()
    model.topk_candidates = 1
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    outputs = {
        "cls_logits": [torch.tensor([[[3.0, 2.0], [2.5, -9.0]]])],
        "bbox_regression": [torch.zeros(1, 2, 4)],
    }
    of_anchors = model.postprocess_detections(outputs, [[boxes]], [(64, 64)])[0]
    assert of_anchors["labels"].tolist() == [0, 1]  # both classes of the one anchor
    assert of_anchors["boxes"].tolist() == [boxes[0].tolist()] * 2
    model.best_of_anchor = False
    assert model.postprocess_detections(outputs, [[boxes]], [(64, 64)])[0]["labels"].tolist() == [0]


def test_mask_rcnns_losses_are_l1_and_masks_are_cut_at_one_half() -> None:
    from attnbench.harness.dense.mask_rcnn import _mask_targets

    mask = torch.zeros(1, 32, 32, dtype=torch.uint8)
    mask[:, 8:16, 8:24] = 1
    box = torch.tensor([[8.0, 8.0, 24.0, 24.0]])
    drawn = _mask_targets(mask, box, torch.tensor([0]), 28)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert drawn[0, :14].all()
    assert not drawn[0, 14:].any()
    model = make("mask_rcnn", num_classes=2).train()
    target = {"boxes": box, "labels": torch.tensor([1]), "masks": mask}
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long), "masks": mask[:0]}
    losses = model.losses([torch.randn(3, 32, 32), torch.randn(3, 32, 32)], [target, empty])
    assert set(losses) == {"loss_objectness", "loss_rpn_box_reg", "classes", "boxes", "masks"}
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None for p in model.parameters())


def test_the_proposals_loss_of_boxes_is_l1_over_the_sample() -> None:
    rpn = make("mask_rcnn").rpn
    rpn.fg_bg_sampler = lambda labels: ([labels[0] == 1], [labels[0] == 0])
    deltas, goals = torch.randn(4, 4), torch.randn(4, 4)
    labels = torch.tensor([1.0, 0.0, -1.0, 1.0])
    objectness = torch.randn(4, 1)
    found = rpn.compute_loss(objectness, deltas, [labels], [goals])
    torch.testing.assert_close(found[1], (deltas - goals).abs()[[0, 3]].sum() / 3)
    expected = F.binary_cross_entropy_with_logits(objectness[[0, 3, 1], 0], torch.tensor([1.0, 1.0, 0.0]))
    torch.testing.assert_close(found[0], expected)
