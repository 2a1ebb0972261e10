"""Top-1 accuracy in percent, by training the ``swin_pico`` layout on real images.

It tells a mechanism that learns from one that does not; it does not rank mechanisms as ImageNet would.
"""

import math

import torch
from torch import nn

from attnbench import datasets
from attnbench.harness.training.train import Recipe, train


def measure(
    model: nn.Module,
    size: int,
    recipe: Recipe,
    device: torch.device,
    seed: int,
    dataset: str,
) -> tuple[float, dict[str, object]]:
    """Train a model on a data set's training images and test it on those held out.

    Args:
        model: maps (B, channels, size, size) to a logit for each class.
        size: height and width of the enlarged images.
        recipe: how to train.
        device: where.
        seed: of training; the split is always the same.
        dataset: name of a data set for classification.

    Returns:
        Accuracy in percent, and details: the recipe, the last training loss, the number of test images
        and the 95 % interval (Wilson) that so many images allow.
    """
    spec = datasets.get(dataset)
    split = spec.load()(size)
    split = type(split)(*(tensor.to(device) for tensor in split))
    model.to(device)
    loss = train(model, split.train_images, split.train_labels, recipe, seed)
    right = evaluate(model, split.test_images, split.test_labels)
    total = len(split.test_labels)
    details: dict[str, object] = {
        "data": spec.facts.title,
        "recipe": recipe.describe(),
        "train_images": len(split.train_labels),
        "test_images": total,
        "train_loss": loss,
        "interval_95": [100 * bound for bound in wilson(right, total)],
    }
    return 100 * right / total, details


@torch.no_grad()
def evaluate(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, batch_size: int = 128) -> int:
    """Number of images whose largest logit is their label; each image counts once."""
    model.eval()
    pairs = zip(images.split(batch_size), labels.split(batch_size), strict=True)
    return sum(int((model(x).argmax(dim=1) == y).sum()) for x, y in pairs)


def wilson(right: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval of a share, ``right`` of ``total``."""
    share, spread = right / total, z**2 / total
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    return middle - half, middle + half
