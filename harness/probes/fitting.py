"""Training on a probe: fresh pictures for every step, a stated budget, the same for all mechanisms."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnbench.harness.probes.probe import NOT_ASKED, Draw, Probe

_AHEAD = 8
"""Steps whose pictures are drawn at once: many small draws cost more than one large."""


@dataclass(frozen=True)
class Budget:
    """How a model is trained on a probe: AdamW, linear warm-up, cosine decay, gradients clipped to norm 1.

    Args:
        steps: of the optimizer, each on pictures not seen before.
        batch_size: pictures in a step.
        rates: peak learning rates that are tried; the best on validation pictures is taken.
        weight_decay: of AdamW.
        warmup: share of the steps in which the rate rises.
    """

    steps: int = 400
    batch_size: int = 32
    rates: tuple[float, ...] = (1e-3, 3e-3)
    weight_decay: float = 0.01
    warmup: float = 0.1

    def describe(self) -> dict[str, Any]:
        """The budget as a dictionary, for a record."""
        return asdict(self)


@dataclass(frozen=True)
class Trained:
    """What training did: mean loss in each sixteenth of the steps, in nats an answer."""

    trace: tuple[float, ...]

    @property
    def loss(self) -> float:
        """Mean loss over the last sixteenth of the steps."""
        return self.trace[-1]


def train(model: nn.Module, probe: Probe, budget: Budget, rate: float, generator: torch.Generator) -> Trained:
    """Train a model in place.

    Args:
        model: maps images to (B, rows, columns, classes) logits of the tokens.
        probe: draws the pictures.
        budget: how long, how.
        rate: peak learning rate.
        generator: of the pictures, on the model's device.

    Raises:
        FloatingPointError: the loss stopped being finite.
    """
    losses = list(steps(model, probe, budget, rate, generator))
    parts = torch.stack(losses).tensor_split(min(16, len(losses)))
    trace = tuple(float(part.mean()) for part in parts)
    if not all(map(math.isfinite, trace)):
        raise FloatingPointError(f"the loss is not finite at learning rate {rate}: {trace}")
    return Trained(trace)


def steps(
    model: nn.Module, probe: Probe, budget: Budget, rate: float, generator: torch.Generator
) -> Iterator[Tensor]:
    """Train step by step, yielding each step's loss; see :func:`train`."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=budget.weight_decay, fused=True)
    warm = max(1, round(budget.warmup * budget.steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share(step, warm, budget.steps))
    model.train()
    for images, targets, _ in batches(probe, budget, generator):
        loss = loss_of(model(images), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        yield loss.detach()


def loss_of(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of the tokens asked; logits (B, rows, columns, classes), targets (B, N).

    Logits (B, classes) are of pictures, whose answer is that of each of its tokens.
    """
    if logits.ndim == 2:
        return F.cross_entropy(logits, targets[:, 0])
    return F.cross_entropy(logits.flatten(0, 2), targets.flatten(), ignore_index=NOT_ASKED)


def batches(probe: Probe, budget: Budget, generator: torch.Generator) -> Iterator[Draw]:
    """Training pictures of each step, drawn for several steps at once."""
    missing = budget.steps
    while missing > 0:
        now = min(missing, _AHEAD)
        many = probe.sample(generator, now * budget.batch_size, "train")
        for step in range(now):
            yield many.take(slice(step * budget.batch_size, (step + 1) * budget.batch_size))
        missing -= now


def _share(step: int, warm: int, steps: int) -> float:
    """Share of the peak rate: linear up, then cosine down to zero."""
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
