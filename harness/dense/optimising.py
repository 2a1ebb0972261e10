"""The optimizer and the learning rate of a dense recipe, as mmcv's hooks set it."""

import math

import torch
from torch import nn

from attnbench.dense_recipes import DenseRecipe
from attnbench.harness.dense.dense_model import backbone_of


def make_optimizer(model: nn.Module, recipe: DenseRecipe) -> torch.optim.Optimizer:
    """AdamW at the recipe's peak rates; see :class:`attnbench.dense_recipes.Optimizer` for the decay."""
    of = recipe.optimizer
    kept: set[int] = set()
    if "layer_norm" in of.no_decay:
        norms = (module for module in model.modules() if isinstance(module, nn.LayerNorm))
        kept |= {id(parameter) for norm in norms for parameter in norm.parameters()}
    if "position" in of.no_decay:
        kept |= {id(parameter) for name, parameter in model.named_parameters() if name.endswith("table")}
    body = set() if of.backbone_lr == 1 else {id(parameter) for parameter in backbone_of(model).parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        rate = of.lr * (of.backbone_lr if id(parameter) in body else 1)
        decay = 0.0 if id(parameter) in kept else of.weight_decay
        groups.setdefault((rate, decay), []).append(parameter)
    order = sorted(groups, key=lambda group: (group[0] != of.lr, -group[1]))  # logs show the first one's rate
    return torch.optim.AdamW(
        [{"params": groups[rate, decay], "lr": rate, "weight_decay": decay} for rate, decay in order],
        lr=of.lr,
        betas=of.betas,
    )


class DenseSchedule:
    """Sets the rate of every group to the recipe's; a function of the update's number alone.

    Args:
        optimizer: whose groups have their peak rates.
        updates: of the whole run.
        epoch: updates in an epoch, for ``step``.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, recipe: DenseRecipe, updates: int, epoch: int
    ) -> None:
        self.optimizer, self.recipe, self.updates, self.epoch = optimizer, recipe, updates, epoch
        self.peaks = [group["lr"] for group in optimizer.param_groups]

    def set(self, update: int) -> None:
        """Give every group of parameters its rate in this update, counted from 0."""
        factor = self.factor(update)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor

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
