"""The optimizer and the learning rate of a dense recipe, as mmcv's hooks set it."""

import math
from typing import Any

import torch
from torch import nn

from attnbench.dense_recipes import DenseRecipe


def make_optimizer(model: nn.Module, recipe: DenseRecipe) -> torch.optim.Optimizer:
    """AdamW at the recipe's peak rate; see :class:`attnbench.dense_recipes.Optimizer` for the decay."""
    of = recipe.optimizer
    kept: set[int] = set()
    if "layer_norm" in of.no_decay:
        norms = (module for module in model.modules() if isinstance(module, nn.LayerNorm))
        kept |= {id(parameter) for norm in norms for parameter in norm.parameters()}
    if "position" in of.no_decay:
        kept |= {id(parameter) for name, parameter in model.named_parameters() if name.endswith("table")}
    decayed = [parameter for parameter in model.parameters() if id(parameter) not in kept]
    rest = [parameter for parameter in model.parameters() if id(parameter) in kept]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=of.lr,
        betas=of.betas,
        weight_decay=of.weight_decay,
    )


class DenseSchedule:
    """Sets the rate of every group to the recipe's; a function of the update's number alone.

    Args:
        optimizer: whose groups all have the peak rate.
        updates: of the whole run.
        epoch: updates in an epoch, for ``step``.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, recipe: DenseRecipe, updates: int, epoch: int
    ) -> None:
        self.optimizer, self.recipe, self.updates, self.epoch = optimizer, recipe, updates, epoch

    def set(self, update: int) -> None:
        """Give every group of parameters the rate of this update, counted from 0."""
        rate = self.recipe.optimizer.lr * self.factor(update)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def factor(self, update: int) -> float:
        """Share of the peak rate: the shape's, times the warm-up's."""
        of = self.recipe.schedule
        done = update / self.updates
        if of.shape == "cosine":
            share = of.final + (1 - of.final) * (1 + math.cos(math.pi * done)) / 2
        elif of.shape == "poly":
            share = of.final + (1 - of.final) * (1 - done) ** of.power
        else:
            share = 0.1 ** sum(update // self.epoch >= step for step in of.steps)
        if update < of.warmup:
            share *= 1 - (1 - update / of.warmup) * (1 - of.warmup_ratio)
        return share
