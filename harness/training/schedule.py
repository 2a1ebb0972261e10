"""The learning rate of every update, from timm's scheduler; a function of the update's number alone."""

from typing import Protocol

import torch
from timm.scheduler import CosineLRScheduler

from attnbench.recipes import Recipe


class Schedule(Protocol):
    """What sets the learning rates of an optimizer."""

    def set(self, update: int) -> None:
        """Give every group of parameters the rate of this update, counted from 0 over the whole run."""


class CosineSchedule:
    """A recipe's warm-up and cosine, with the lag it has: see :class:`attnbench.recipes.Schedule`.

    Args:
        optimizer: whose groups have the peak rate.
        steps: updates in an epoch.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, recipe: Recipe, steps: int) -> None:
        shape = recipe.schedule
        warmup, _, lowest = recipe.optimizer.rates(recipe.global_batch)
        self.unit = steps if shape.per == "epoch" else 1
        self.late = shape.late
        each = steps if shape.per == "update" else 1
        self.scheduler = CosineLRScheduler(
            optimizer,
            t_initial=shape.epochs * each,
            lr_min=lowest,
            warmup_t=shape.warmup_epochs * each,
            warmup_lr_init=warmup,
            warmup_prefix=shape.warmup_prefix,
            t_in_epochs=True,  # its unit is ours, whichever that is
        )
        if shape.warmup_prefix:  # the cosine takes what the warm-up leaves
            self.scheduler.t_initial = max(1, (shape.epochs - shape.warmup_epochs) * each)

    def set(self, update: int) -> None:
        """Give every group of parameters the rate of this update, counted from 0 over the whole run."""
        self.scheduler.step(max(update // self.unit - self.late, 0))
