"""How far a question is from its answer: in one attention's reach, only in that of several, or in none's.

For a static mechanism the reach of a block is what its ``support(height, width)`` declares, so that the
score of what is out of reach checks the declaration too. A dynamic mechanism reads what it chooses in each
picture; there, the reach is measured on the trained model: a token is read where the output has a derivative
by it, the places of a bilinear reading held fixed (see
:class:`~attnbench.harness.conformance.dependence.FixedAddresses`). A local convolution of the values (LePE)
is no choice of what to read: it is left out of one hop, and counts as a step like any other of several.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from attnbench.errors import AttnbenchError
from attnbench.harness.conformance.dependence import FixedAddresses
from attnbench.harness.models.backbone import Backbone

OUT_OF_REACH, ONE_HOP, COMPOSED = 0, 1, 2

_AT_ONCE = 128  # questions whose derivatives are taken together


def declared(model: Backbone, side: int) -> Tensor:
    """(N, N) of the three constants: how output token i of a static mechanism is joined to input token j.

    Raises:
        AttnbenchError: an attention module declares no ``support``.
    """
    own = torch.eye(side**2, dtype=torch.bool)  # a block adds its attention to its input
    direct, known = own, own
    for attention in model.attentions():
        step = _support(attention, side) | own
        direct = direct | step
        known = (step.float() @ known.float()) > 0
    return torch.where(direct, ONE_HOP, torch.where(known, COMPOSED, OUT_OF_REACH))


def _support(attention: nn.Module, side: int) -> Tensor:
    for part in attention.modules():  # on a rung the mechanism is inside
        if hasattr(part, "support"):
            found: Any = part.support
            support: Tensor = found(side, side).cpu()
            return support
    raise AttnbenchError(
        f"{type(attention).__name__} has no method support(height, width), so what it can reach is not known"
    )


def measured(model: Backbone, images: Tensor, picture: Tensor, asked: Tensor, source: Tensor) -> Tensor:
    """(Q,) of the three constants, for questions about pictures and a model that may choose what it reads.

    Args:
        model: with one stage, in evaluation mode.
        images: (B, C, height, width).
        picture, asked, source: (Q,) number of the picture, of the token asked and of the one with the answer.
    """
    direct = asked == source
    for attention, x in zip(model.attentions(), inputs(model, images), strict=True):
        with _without_local_term(attention):
            direct = direct | _reads(attention, x, picture, asked, source)
    with torch.no_grad():
        tokens = model.patch_embed(images)
    known = direct | _reads(model.layers, tokens, picture, asked, source)
    return torch.where(direct, ONE_HOP, torch.where(known, COMPOSED, OUT_OF_REACH))


def inputs(model: Backbone, images: Tensor) -> list[Tensor]:
    """What each attention module is given."""
    seen: list[Tensor] = []
    hooks = [m.register_forward_pre_hook(lambda _, x: seen.append(x[0].detach())) for m in model.attentions()]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


@contextlib.contextmanager
def _without_local_term(attention: nn.Module) -> Iterator[None]:
    """The module with its LePE, if it has one, at zero."""
    weights = {p: p.detach().clone() for name, p in attention.named_parameters() if "lepe" in name}
    with torch.no_grad():
        for p in weights:
            p.zero_()
    try:
        yield
    finally:
        with torch.no_grad():
            for p, kept in weights.items():
                p.copy_(kept)


def _reads(module: nn.Module, x: Tensor, picture: Tensor, asked: Tensor, source: Tensor) -> Tensor:
    """(Q,) bool: the output at ``asked`` has a derivative by the input at ``source``."""
    return torch.cat([_some_reads(module, x, *some) for some in _parts(picture, asked, source)])


def _parts(*questions: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(q.split(_AT_ONCE) for q in questions), strict=True)


def _some_reads(module: nn.Module, x: Tensor, picture: Tensor, asked: Tensor, source: Tensor) -> Tensor:
    each = torch.arange(len(picture), device=x.device)
    given = x[picture].detach().requires_grad_()
    with torch.enable_grad(), FixedAddresses():
        y = module(given).flatten(1, 2)[each, asked]  # (Q, C)
        weights = torch.linspace(1.0, 2.0, y.shape[-1], device=x.device)  # so that no channel cancels another
        total = (y * weights.sqrt()).sum()
    if not total.requires_grad:
        return torch.zeros_like(picture, dtype=torch.bool)
    (gradient,) = torch.autograd.grad(total, given)
    return gradient.flatten(1, 2)[each, source].ne(0).any(-1)
