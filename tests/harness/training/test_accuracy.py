"""Accuracy on digits: images held out, each counted once, training that repeats with its seed."""

import pytest
import torch
from torch import nn

from attnbench.harness.data import digits
from attnbench.harness.training import accuracy
from attnbench.harness.training.train import Recipe, train


class Lookup(nn.Module):
    """Answers by the nearest training image; knows nothing of order or seed."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        super().__init__()
        self.images, self.labels = images.flatten(1), labels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        nearest = torch.cdist(x.flatten(1), self.images).argmin(dim=1)
        return nn.functional.one_hot(self.labels[nearest], 10).float()


def test_digits_are_real_held_out_and_stratified() -> None:
    split = digits.load(32)
    assert split.train_images.shape == (1198, 1, 32, 32)
    assert split.test_images.shape == (599, 1, 32, 32)
    assert torch.bincount(split.test_labels).min() >= 55
    shared = torch.cdist(split.test_images.flatten(1), split.train_images.flatten(1)).min()
    assert shared > 0
    right = accuracy.evaluate(Lookup(split.train_images, split.train_labels), *split[2:])
    assert right / 599 > 0.97  # what nearest neighbours are known to reach on these digits


def test_each_test_image_counts_once() -> None:
    images, labels = torch.zeros(10, 1), torch.arange(10)
    model = nn.Sequential(nn.Linear(1, 10))
    torch.nn.init.zeros_(model[0].weight)
    torch.nn.init.zeros_(model[0].bias)
    model[0].bias.data[3] = 1
    assert accuracy.evaluate(model, images, labels, batch_size=4) == 1


def test_wilson_interval() -> None:
    low, high = accuracy.wilson(95, 100)
    assert low == pytest.approx(0.8882, abs=1e-3)
    assert high == pytest.approx(0.9785, abs=1e-3)


def test_training_learns_and_repeats_with_its_seed() -> None:
    split = digits.load(8)
    losses = []
    for _ in range(2):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        losses.append(train(model, split.train_images, split.train_labels, Recipe(epochs=8, shift=0), seed=1))
    assert losses[0] == losses[1]
    assert accuracy.evaluate(model, split.test_images, split.test_labels) / 599 > 0.85


def test_training_that_diverges_is_an_error() -> None:
    split = digits.load(8)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    model[1].weight.data.fill_(float("inf"))
    with pytest.raises(FloatingPointError, match="the loss is"):
        train(model, split.train_images, split.train_labels, Recipe(epochs=1), seed=0)
