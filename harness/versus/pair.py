"""Two modules that compute the same: the official one and ours with its weights."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attnbench.errors import AttnbenchError
from attnbench.layouts import get_layout
from attnbench.registry import Site

STAGES = (0, 1, 2, 3)
"""Of the Swin-T layout."""


def _as_it_is(x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True)
class Pair:
    """Two modules that compute the same.

    Args:
        official, own: the modules, whose parameters are learned; ours maps (B, H, W, C) to (B, H, W, C).
        run_official: how the official one is called.
        to_official: a map (B, H, W, C) as it lies in the official code's own model; not timed.
        from_official: the official output as a map (B, H, W, C); not timed.
    """

    official: nn.Module
    own: nn.Module
    run_official: Callable[[Tensor], Tensor]
    to_official: Callable[[Tensor], Tensor] = _as_it_is
    from_official: Callable[[Tensor], Tensor] = _as_it_is


@dataclass(frozen=True)
class Reference:
    """Official code of a mechanism.

    Args:
        mechanism: ours.
        build: makes the pair of a place; raises ``ImplementationError`` where it cannot.
        stages: of the Swin-T layout in which the official models have it.
    """

    mechanism: str
    build: Callable[[Site], Pair]
    stages: tuple[int, ...] = STAGES


def sites(stages: tuple[int, ...] = STAGES) -> Iterator[Site]:
    """The first two places of each stage of the Swin-T layout at 224 × 224 px."""
    places = get_layout("swin_t").sites(224, 224)
    yield from (site for site in places if site.block < 2 and site.stage in stages)


def copy_weights(official: nn.Module, own: nn.Module, own_name: Callable[[str], str]) -> None:
    """Give the official module random weights, and ours the same.

    Args:
        official, own: they may keep a weight in other shapes, as a 1 × 1 convolution and a linear layer.
        own_name: our name of an official parameter. Buffers stay as the modules begin.

    Raises:
        AttnbenchError: a parameter of one has none of the other.
    """
    with torch.no_grad():
        for parameter in official.parameters():
            parameter.normal_(std=0.05)
    theirs: Mapping[str, Tensor] = {own_name(name): value for name, value in official.named_parameters()}
    ours = dict(own.named_parameters())
    if odd := theirs.keys() ^ ours.keys():
        raise AttnbenchError(f"parameters of one module alone: {', '.join(sorted(odd))}")
    state = own.state_dict()
    for name in ours:
        state[name] = theirs[name].detach().reshape(state[name].shape).clone()
    own.load_state_dict(state)
