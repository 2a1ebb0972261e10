"""The recipe: how every mechanism is trained, the same for all."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Recipe:
    """AdamW with linear warm-up and cosine decay; images are shifted at random by up to ``shift`` pixels.

    Args:
        epochs: passes over the training images.
        batch_size: images per step; the last, incomplete batch of an epoch is left out.
        lr: peak learning rate.
        warmup: share of the steps in which the rate rises.
    """

    epochs: int = 10
    batch_size: int = 64
    lr: float = 3e-3
    weight_decay: float = 0.05
    warmup: float = 0.1
    label_smoothing: float = 0.1
    shift: int = 2

    def describe(self) -> dict[str, Any]:
        """The recipe as a dictionary, for a record."""
        return asdict(self)


def train(model: nn.Module, images: Tensor, labels: Tensor, recipe: Recipe, seed: int) -> float:
    """Train a model in place.

    Args:
        model: maps (B, C, height, width) to logits.
        images: (n, C, height, width) on the model's device; labels: (n,).
        recipe: see :class:`Recipe`.
        seed: of the order of images, the shifts and everything random in the model.

    Returns:
        Mean loss of the last epoch.

    Raises:
        FloatingPointError: the loss stopped being finite.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    per_epoch = len(labels) // recipe.batch_size
    total = recipe.epochs * per_epoch
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step / total, recipe.warmup))
    model.train()
    mean = math.inf
    for epoch in range(recipe.epochs):
        order = torch.randperm(len(labels), generator=generator)
        losses = []
        for step in range(per_epoch):
            batch = order[step * recipe.batch_size : (step + 1) * recipe.batch_size].to(labels.device)
            dy, dx = torch.randint(-recipe.shift, recipe.shift + 1, (2,), generator=generator).tolist()
            logits = model(torch.roll(images[batch], (dy, dx), (2, 3)))
            loss = F.cross_entropy(logits, labels[batch], label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.detach())
        mean = float(torch.stack(losses).mean())
        if not math.isfinite(mean):
            raise FloatingPointError(f"the loss is {mean} after epoch {epoch + 1}")
    return mean


def _rate(progress: float, warmup: float) -> float:
    """Share of the peak rate: linear up over ``warmup``, then cosine down to zero."""
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))
