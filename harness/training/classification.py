"""Image classification as a task of the loop, by a recipe."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.data import Mixup
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from attnbench.harness.data._images import ImageSource
from attnbench.harness.training.evaluation import score
from attnbench.harness.training.image_transforms import for_evaluation, for_training
from attnbench.harness.training.images import Augmented, Damage, collate
from attnbench.harness.training.order import Draw, repeated, shuffled
from attnbench.harness.training.ranks import Ranks
from attnbench.recipes import Recipe


class Classification:
    """Tell the class of an image; see :class:`attnbench.harness.training.loop.Task`.

    Args:
        train, test: images of the splits.
        size: pixels a side.
        channels: that the model takes.
        seed: of the run.
        workers: that load test images.
        say: takes a line for the user.
        limit: images that may be undecodable.
        tokens: a side of the model's last map.
    """

    headline = "top1"
    collate: Callable[[list[Any]], Any] | None = staticmethod(collate)

    def __init__(
        self,
        recipe: Recipe,
        train: ImageSource,
        test: ImageSource,
        size: int,
        channels: int,
        seed: int,
        workers: int = 0,
        say: Callable[[str], None] = print,
        limit: int = 0,
        tokens: int = 0,
    ) -> None:
        self.recipe, self.train, self.test, self.seed, self.workers = recipe, train, test, seed, workers
        self.tokens = tokens
        self.data: Any = self.make_data(size, channels)
        self.test_transform = for_evaluation(recipe.evaluation, size, *moments(test, channels), channels)
        self.damage = Damage(limit, say)
        self.mix, self.criterion = make_loss(recipe, len(train.classes))

    def make_data(self, size: int, channels: int) -> Any:
        """The training images, augmented."""
        mean, std = moments(self.train, channels)
        return Augmented(self.train, for_training(self.recipe.augmentation, size, mean, std, channels))

    def draws(self) -> int:
        """Draws in an epoch."""
        return len(self.order(0))

    def order(self, epoch: int) -> Sequence[Draw]:
        """The draws of an epoch, the same on every rank."""
        repeats = self.recipe.augmentation.repeats
        if repeats > 1:
            return repeated(len(self.train), self.seed, epoch, repeats)
        return shuffled(len(self.train), self.seed, epoch, self.train.blocks)

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model itself."""
        return model

    def loss(self, module: nn.Module, batch: Any) -> Tensor:
        """Cross-entropy of a micro-batch (:class:`~.images.Batch`), mixed as the recipe has it."""
        self.damage.note(batch.bad)
        images, labels = batch.images, batch.labels
        if self.mix is not None:
            images, labels = self.mix(images, labels)
        return self.criterion(module(images), labels)

    def evaluate(self, model: nn.Module, ranks: Ranks) -> dict[str, float]:
        """Top-1 and top-5 accuracy in percent."""
        size = self.recipe.device_batch
        found = score(model, self.test, self.test_transform, ranks, self.damage, size, self.workers)
        return {name: found[name] for name in ("top1", "top5")}


def make_loss(recipe: Recipe, num_classes: int) -> tuple[Mixup | None, nn.Module]:
    """What mixes images and labels, if anything does, and the loss that goes with it."""
    augmentation = recipe.augmentation
    if augmentation.mixes:
        mix = Mixup(
            mixup_alpha=augmentation.mixup,
            cutmix_alpha=augmentation.cutmix,
            prob=augmentation.mix_prob,
            switch_prob=augmentation.switch_prob,
            mode="batch",
            label_smoothing=augmentation.smoothing,
            num_classes=num_classes,
        )
        return mix, SoftTargetCrossEntropy()
    if augmentation.smoothing:
        return None, LabelSmoothingCrossEntropy(augmentation.smoothing)
    return None, nn.CrossEntropyLoss()


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW at the recipe's peak rate; norms, biases and tables of positions are not decayed."""
    of = recipe.optimizer
    _, peak, _ = of.rates(recipe.global_batch)
    return create_optimizer_v2(
        model, opt="adamw", lr=peak, weight_decay=of.weight_decay, betas=of.betas, eps=of.eps
    )


def moments(source: ImageSource, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation for a model that takes so many channels; of grey, the mean of the three."""
    if channels == 1 and len(source.mean) == 3:
        return (sum(source.mean) / 3,), (sum(source.std) / 3,)
    if channels == 3 and len(source.mean) == 1:
        return source.mean * 3, source.std * 3
    return source.mean, source.std
