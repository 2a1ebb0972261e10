"""Whole and sliding tests, scales and flips; counting of pixels; AP by two packages."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, jaccard_score
from torch import Tensor, nn

from attnbench.dense_recipes import Test
from attnbench.harness.dense.confusion import Confusion
from attnbench.harness.dense.judge import NAMES, Judge
from attnbench.harness.dense.predict import _starts, predict
from attnbench.harness.dense.samples import Objects


class Pointwise(nn.Module):
    """Logits at the image's own stride, of the pixel alone."""

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(tuple(x.shape[-2:]))
        return torch.cat([x[:, :1], -x[:, 1:2], x[:, 2:] * 2], dim=1)

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[int, ...]] = []


def test_crops_cover_an_image_and_end_with_it() -> None:
    assert _starts(512, 512, 341) == [0]
    assert _starts(300, 512, 341) == [0]
    assert _starts(600, 512, 341) == [0, 88]
    assert _starts(1200, 512, 341) == [0, 341, 682, 688]


def test_sliding_over_a_pointwise_model_is_the_whole_image() -> None:
    image, model = torch.randn(3, 40, 70), Pointwise()
    whole = predict(model, lambda scale: image, (40, 70), Test())
    slid = predict(model, lambda scale: image, (40, 70), Test(mode="slide", crop=32, stride=20))
    assert torch.equal(whole, slid)
    assert len(model.sizes) == 1 + 2 * 3


def test_scales_and_flips_average_probabilities() -> None:
    """Of a model that sees its place: the mirror image's answer is mirrored back before it is averaged."""

    class Sided(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            ramp = torch.linspace(-3, 3, x.shape[-1]).expand(1, 1, *x.shape[-2:])
            return torch.cat([ramp, -ramp + 0.1], dim=1)

    asked: list[float] = []

    def at(scale: float) -> Tensor:
        asked.append(scale)
        return torch.zeros(3, int(8 * scale), int(16 * scale))

    single = predict(Sided(), at, (8, 16), Test())
    assert single[0].tolist() == [1] * 8 + [0] * 8
    both = predict(Sided(), at, (8, 16), Test(scales=(1.0, 2.0), flip=True))
    assert bool((both == 1).all())  # the bias remains when the sides cancel
    assert asked == [1.0, 1.0, 2.0]


def test_mean_iou_is_scikit_learns() -> None:
    generator = torch.Generator().manual_seed(0)
    confusion = Confusion(6)
    truths, saids = [], []
    for size in ((7, 9), (12, 5), (3, 3)):
        labels = torch.randint(5, size, generator=generator)  # class 5 does not occur
        labels[0] = 255
        predicted = torch.where(torch.rand(size, generator=generator) < 0.6, labels % 5, 4)
        confusion.add(predicted, labels)
        truths.append(labels[labels != 255])
        saids.append(predicted[labels != 255])
    truth, said = torch.cat(truths).numpy(), torch.cat(saids).numpy()
    assert confusion.counts.tolist() == confusion_matrix(truth, said, labels=range(6)).tolist()
    expected = jaccard_score(truth, said, average=None, labels=range(5))
    np.testing.assert_allclose(confusion.iou()[:5], expected, rtol=0, atol=1e-15)
    assert confusion.iou()[5].isnan()
    assert confusion.mean_iou() == pytest.approx(100 * expected.mean(), abs=1e-12)
    assert confusion.mean_iou((1, 3)) == pytest.approx(50 * (expected[1] + expected[3]), abs=1e-12)


def test_a_class_that_is_only_predicted_counts_as_zero() -> None:
    confusion = Confusion(3)
    confusion.add(torch.tensor([[0, 2]]), torch.tensor([[0, 0]]))
    assert confusion.iou().tolist()[0] == 0.5
    assert confusion.mean_iou() == 25.0


def test_classes_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="below 3, got 7"):
        Confusion(3).add(torch.tensor([[7]]), torch.tensor([[0]]))
    with pytest.raises(ValueError, match="differ"):
        Confusion(3).add(torch.zeros(2, 2), torch.zeros(2, 3))


def scene(seed: int, side: int = 120) -> tuple[Objects, dict[str, Tensor]]:
    """Objects of all sizes, and detections near some of them."""
    random = np.random.default_rng(seed)
    sides = np.asarray([10, 30, 50, 110])
    corners = random.integers(0, side - sides[:, None] + 1, (4, 2)) * (sides[:, None] < side)
    boxes = np.concatenate([corners, corners + sides[:, None]], axis=1).clip(0, side).astype(np.float32)
    masks = np.zeros((4, side, side), bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int), strict=True):
        mask[y1:y2, x1:x2] = True
    truth = Objects(
        boxes,
        random.integers(0, 2, 4),
        masks,
        np.asarray([False, False, False, seed == 2]),
        masks.sum((1, 2)),
    )
    moved = torch.from_numpy(boxes) + torch.from_numpy(random.normal(0, 3, (4, 4)).astype(np.float32))
    moved = torch.cat([moved, moved[:2] + 20])
    moved[:, 2:] = moved[:, 2:].maximum(moved[:, :2] + 2)
    labels = torch.from_numpy(np.concatenate([truth.classes, truth.classes[:2]]))
    found = {
        "boxes": moved / 2,  # on an input of half the size
        "labels": labels + 1,
        "scores": torch.from_numpy(random.random(6).astype(np.float32)),
        "masks": torch.full((6, 1, 28, 28), 0.9),
    }
    return truth, found


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_both_packages_judge_alike(kind: str) -> None:
    scores = []
    for package in ("pycocotools", "faster_coco_eval"):
        judge = Judge((3, 7), 1, package)
        for seed in range(4):
            truth, found = scene(seed)
            judge.add(seed, (120, 120), truth, found, (60, 60))
        scores.append(judge.score(kind) | {"first": judge.score(kind, (0,))["ap_context"]})
        both = judge.score(kind, (0, 1))
        second = judge.score(kind, (1,))["ap_context"]
        assert both["ap_context"] == pytest.approx(both["ap"], abs=1e-9)
        assert (scores[-1]["first"] + second) / 2 == pytest.approx(both["ap"], abs=1e-9)
        assert abs(scores[-1]["first"] - second) > 0.1
    assert scores[0] == pytest.approx(scores[1], abs=1e-9, nan_ok=True)
    assert 0 < scores[0]["ap"] < 100
    assert tuple(scores[0])[:-1] == NAMES


def test_what_is_exactly_found_has_an_ap_of_100_and_nothing_of_0() -> None:
    truth, _ = scene(0)
    exact: dict[str, Any] = {
        "boxes": torch.from_numpy(truth.boxes),
        "labels": torch.from_numpy(truth.classes),
        "scores": torch.ones(4),
    }
    judge, blind = Judge((3, 7), 0), Judge((3, 7), 0)
    judge.add(5, (120, 120), truth, exact, (120, 120))
    blind.add(5, (120, 120), truth, {k: v[:0] for k, v in exact.items()}, (120, 120))
    assert judge.score(context=(1,))["ap_context"] == judge.score()["ap"] == pytest.approx(100)
    assert blind.score(context=(1,))["ap_context"] == 0
    assert blind.score() == {"ap": 0, "ap50": 0, "ap75": 0, "ap_s": 0, "ap_m": 0, "ap_l": 0}
