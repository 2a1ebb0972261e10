"""How well a model answers, and how well by how far the answer is."""

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attnbench.harness.models.backbone import Backbone
from attnbench.harness.probes import reach
from attnbench.harness.probes.probe import NO_SOURCE, NOT_ASKED, Draw, Probe

TEST_SEED, VALIDATION_SEED = 20_011, 20_021
QUESTIONS = 512
"""Of a dynamic mechanism the reach is measured, for so many questions."""

_BATCH = 64
HOPS = {"one_hop": reach.ONE_HOP, "composed": reach.COMPOSED, "out_of_reach": reach.OUT_OF_REACH}


@dataclass(frozen=True)
class Scores:
    """Percent right. ``by_hop`` and ``shares`` (percent of the questions) have the keys of :data:`HOPS`.

    A hop that no question is of is absent. Empty where answers have no one source.
    """

    accuracy: float
    answers: int
    by_hop: dict[str, float]
    shares: dict[str, float]


@functools.lru_cache(maxsize=8)
def pictures(kind: type[Probe], trained: int, split: str, count: int, side: int, device: str) -> Draw:
    """The pictures that all models are scored on: the same for all seeds of training."""
    generator = torch.Generator(device).manual_seed(TEST_SEED if split == "test" else VALIDATION_SEED)
    return kind(trained).sample(generator, count, split, side)


def score(model: Backbone, probe: Probe, draw: Draw, *, dynamic: bool | None = None) -> Scores:
    """Score a model on pictures.

    Args:
        model: maps images to logits of every token, or of the picture; it is put in evaluation mode.
        probe: whose pictures they are.
        draw: the pictures.
        dynamic: whether the mechanism chooses what it reads; ``None`` for no split by hops.
    """
    model.eval()
    right = answers(model, draw)
    asked = draw.targets != NOT_ASKED
    accuracy = _accuracy(right[asked], draw.targets[asked], probe)
    picture, token = (asked & (draw.source != NO_SOURCE)).nonzero(as_tuple=True)
    if dynamic is None or not len(picture):
        return Scores(accuracy, int(asked.sum()), {}, {})
    if dynamic:
        chosen = torch.linspace(0, len(picture) - 1, min(QUESTIONS, len(picture))).long().to(picture.device)
        picture, token = picture[chosen], token[chosen]
        hops = reach.measured(model, draw.images, picture, token, draw.source[picture, token])
    else:
        side = draw.images.shape[-1] // model.layout.patch_size
        table = reach.declared(model, side).to(token.device)
        hops = table[token, draw.source[picture, token]]
    return Scores(accuracy, int(asked.sum()), *_by_hop(hops, right[picture, token]))


@torch.no_grad()
def answers(model: Any, draw: Draw) -> Tensor:
    """(B, N) bool: the largest logit is the target's."""
    guesses = [model(images).argmax(-1).view(len(images), -1) for images in draw.images.split(_BATCH)]
    return torch.cat(guesses) == draw.targets


def _accuracy(right: Tensor, targets: Tensor, probe: Probe) -> float:
    if not probe.by_class:
        return 100 * float(right.float().mean())
    recalls = [float(right[targets == kind].float().mean()) for kind in range(probe.num_classes)]
    return 100 * sum(recalls) / len(recalls)


def _by_hop(hops: Tensor, right: Tensor) -> tuple[dict[str, float], dict[str, float]]:
    scores, shares = {}, {}
    for name, hop in HOPS.items():
        here = hops == hop
        if here.any():
            scores[name] = 100 * float(right[here].float().mean())
            shares[name] = 100 * float(here.float().mean())
    return scores, shares
