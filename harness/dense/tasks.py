"""Segmentation and detection as tasks of :mod:`attnbench.harness.training.loop`."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attnbench.dense_recipes import DenseRecipe
from attnbench.harness.dense.confusion import Confusion
from attnbench.harness.dense.judge import Judge, on_cpu
from attnbench.harness.dense.predict import predict
from attnbench.harness.dense.samples import DenseDataset
from attnbench.harness.dense.transforms import Detected, Segmented, as_tensor, detected, for_test, segmented
from attnbench.harness.training.order import Draw, shuffled
from attnbench.harness.training.randomness import seed_of
from attnbench.harness.training.ranks import Ranks
from attnbench.heads import DETECTORS


class _Prepared(torch.utils.data.Dataset[Any]):
    """The training split, transformed; the sample of a draw is a function of the draw."""

    def __init__(self, data: DenseDataset, recipe: DenseRecipe) -> None:
        self.data, self.recipe = data, recipe

    def __len__(self) -> int:
        return len(self.data.ids("train"))

    def __getitem__(self, draw: Draw) -> Segmented | Detected:
        random = np.random.default_rng(seed_of(draw.seed, "sample", draw.epoch, draw.sample, draw.repeat))
        sample = self.data.read("train", draw.sample)
        if self.recipe.task == "semantic":
            return segmented(sample, self.recipe.input, random)
        return detected(sample, self.recipe.input, random, first_label(self.recipe.head))


class _LossOf(nn.Module):
    """A model whose forward pass is the sum of its losses: what DDP wraps."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Any, truth: Any) -> Tensor:
        return torch.stack(list(self.model.losses(images, truth).values())).sum()


class DenseTask:
    """What segmentation and detection have in common.

    Args:
        recipe: how to train and test.
        data: where samples come from.
        seed: of the run.
        period: updates in one of the loop's epochs, where the recipe counts updates and not epochs.
    """

    headline = ""

    def __init__(self, recipe: DenseRecipe, data: DenseDataset, seed: int, period: int = 0) -> None:
        self.recipe, self.seen, self.seed, self.period = recipe, data, seed, period
        self.data: Any = _Prepared(data, recipe)

    def order(self, epoch: int) -> Sequence[Draw]:
        """The draws of an epoch; of a period, the stretch of one endless list of shuffled passes."""
        size = len(self.data)
        if not self.period:
            return shuffled(size, self.seed, epoch)
        wanted = self.period * self.recipe.global_batch
        first = epoch * wanted
        passes = range(first // size, (first + wanted - 1) // size + 1)
        draws = [draw for number in passes for draw in shuffled(size, self.seed, number)]
        skipped = first - passes[0] * size
        return draws[skipped : skipped + wanted]

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model's loss as a module."""
        return _LossOf(model)


class Segmentation(DenseTask):
    """Tell the class of every pixel."""

    headline = "miou"
    collate: Callable[[list[Any]], Any] | None = None

    def loss(self, module: nn.Module, batch: Segmented) -> Tensor:
        """Sum of the head's and the auxiliary head's loss."""
        return module(batch.image, batch.labels)

    def evaluate(self, model: nn.Module, ranks: Ranks) -> dict[str, float]:
        """mIoU, also of the classes that need context if there are such, and pixel accuracy, in percent."""
        data, given = self.seen, self.recipe.input
        confusion = Confusion(len(data.classes.stuff))
        for index in range(ranks.rank, len(data.ids("test")), ranks.world):
            sample = data.read("test", index)
            assert sample.labels is not None
            image, labels = as_tensor(sample.image), torch.from_numpy(sample.labels.astype(np.int64))

            def at(scale: float, image: Tensor = image) -> Tensor:
                return for_test(image, given, scale).to(ranks.device)

            size = (labels.shape[0], labels.shape[1])
            confusion.add(predict(model, at, size, self.recipe.test), labels)
        confusion.reduce()
        found = {"miou": confusion.mean_iou(), "pixel_accuracy": confusion.accuracy()}
        if data.classes.context:
            found["miou_context"] = confusion.mean_iou(data.classes.context)
        return found


class Detection(DenseTask):
    """Find objects: their class, box and, with Mask R-CNN, mask."""

    headline = "ap_box"
    collate: Callable[[list[Any]], Any] | None = staticmethod(
        lambda samples: tuple(zip(*samples, strict=True))
    )

    def order(self, epoch: int) -> Sequence[Draw]:
        """As :meth:`DenseTask.order`, portrait and landscape apart: a batch is of one of them."""
        draws = super().order(epoch)
        return grouped(draws, [self._portrait(draw.sample) for draw in draws], self.recipe.global_batch)

    def loss(self, module: nn.Module, batch: Any) -> Tensor:
        """Sum of the detector's losses."""
        images, targets = batch
        return module(list(images), list(targets))

    def evaluate(self, model: nn.Module, ranks: Ranks) -> dict[str, float]:
        """AP of boxes, and of masks where the head draws them, in percent. An image is tested by itself.

        Also of the classes that need context, if there are such.
        """
        data = self.seen
        judge = Judge(data.classes.category_ids, first_label(self.recipe.head))
        for index in range(ranks.rank, len(data.ids("test")), ranks.world):
            sample = data.read("test", index)
            assert sample.objects is not None
            image = for_test(as_tensor(sample.image), self.recipe.input)
            found = on_cpu(model([image.to(ranks.device)])[0])
            size, at = sample.image.shape[:2], image.shape[-2:]
            judge.add(sample.image_id, (size[0], size[1]), sample.objects, found, (at[0], at[1]))
        judge.gather()
        kinds = {"box": "bbox", **({"mask": "segm"} if self.recipe.head == "mask_rcnn" else {})}
        scores: dict[str, float] = {}
        for name, kind in kinds.items():
            found_of = judge.score(kind, data.classes.context_things)
            scores |= {key.replace("ap", f"ap_{name}", 1): value for key, value in found_of.items()}
        return {name: value for name, value in scores.items() if value == value}  # no object of that size

    def _portrait(self, index: int) -> bool:
        height, width = self.seen.size("train", index)
        return height > width


def grouped(draws: Sequence[Draw], portrait: Sequence[bool], batch: int) -> list[Draw]:
    """The draws so ordered that each ``batch`` of them has one orientation, as far as they go round.

    Order within an orientation stays; a batch stands where its last draw stood. What is left over of both
    comes last, together.
    """
    waiting: dict[bool, list[Draw]] = {False: [], True: []}
    found: list[Draw] = []
    for draw, tall in zip(draws, portrait, strict=True):
        waiting[tall].append(draw)
        if len(waiting[tall]) == batch:
            found += waiting[tall]
            waiting[tall] = []
    return found + waiting[False] + waiting[True]


def first_label(head: str) -> int:
    """Number of the first class in targets and results: Mask R-CNN keeps 0 for the background."""
    return 1 if head == "mask_rcnn" else 0


def make_task(
    recipe: DenseRecipe, data: DenseDataset, seed: int, period: int = 0
) -> Segmentation | Detection:
    """The task of a recipe's head."""
    if recipe.head in DETECTORS:
        return Detection(recipe, data, seed, period)
    return Segmentation(recipe, data, seed, period)
