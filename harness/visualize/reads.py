"""How much of each token one token reads: the weights of a mechanism, or what stands in for them.

A mechanism that offers ``attention_map(x, queries)`` is asked. Of any other the *value path* is measured: the
derivative of the query's output by each input token, while all that decides who is read (softmax and fused
attention weights, indices, sampling places) is held fixed. What is left is linear in the values, and for one
head without a local term the derivative by token j is the weight of j times a matrix that all tokens share;
so its Frobenius norm, divided by the sum over all tokens, is the attention weight itself. Several heads are
mixed by what they write, in the manner of Kobayashi et al., 2020, "Attention is Not Only a Weight",
arXiv:2004.10102; local terms and reduced keys are part of the map, which weights alone would leave out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from attnbench.errors import AttnbenchError

PROBES = 16
"""Random directions that stand for all channels where every token of a map is a query."""
WEIGHTS = "attention weights, mean of the heads"
VALUES = "derivative by each token with attention weights held fixed (value path)"
EVERYTHING = "derivative by each token (no softmax to hold fixed: all paths)"
_ELEMENTS = 4_000_000


@dataclass(frozen=True)
class Reads:
    """What some tokens read.

    Args:
        weights: (Q, H, W), not negative; each query's add up to one, or are all zero where it reads nothing.
        definition: what the weights are, in words.
    """

    weights: Tensor
    definition: str


def reads(
    module: nn.Module, x: Tensor, queries: Tensor, *, probes: int | None = None, head: int | None = None
) -> Reads:
    """What the tokens ``queries`` of one map read in a module in evaluation mode.

    Args:
        module: maps (B, H, W, C) to (B, H, W, C), image by image.
        x: (1, H, W, C).
        queries: (Q,) int64 numbers of tokens, row-major.
        probes: random directions to estimate derivatives with; ``None`` for all C, exactly.
        head: which, from 0, where the module tells them apart; ``None`` for the mean of all.

    Raises:
        AttnbenchError: the module's ``attention_map`` is not what the contract says, or has no such head.
    """
    if hasattr(module, "attention_map"):
        heads = weights_of(module, x, queries)
        if head is None:
            return Reads(_share(heads.mean(1)), WEIGHTS)
        if not 0 <= head < heads.shape[1]:
            raise AttnbenchError(f"there is no head {head} among the {heads.shape[1]} of this block")
        return Reads(_share(heads[:, head]), f"attention weights of head {head}")
    if head is not None:
        raise AttnbenchError(f"{type(module).__name__} has no attention_map, which tells heads apart")
    norms, held = dependence(module, x, queries, probes=probes)
    definition = VALUES if held else EVERYTHING
    if probes is not None:
        definition += f", estimated in {probes} random directions"
    return Reads(_share(norms), definition)


def weights_of(module: Any, x: Tensor, queries: Tensor) -> Tensor:
    """(Q, heads, H, W), from the module's own answer.

    Raises:
        AttnbenchError: ``attention_map`` is not what the contract says.
    """
    with torch.no_grad():
        found = module.attention_map(x, queries)
    n = x.shape[1] * x.shape[2]
    if found.ndim != 3 or (found.shape[0], found.shape[2]) != (len(queries), n):
        raise AttnbenchError(
            f"attention_map of {type(module).__name__} must be (queries, heads, N) = "
            f"({len(queries)}, heads, {n}), got {tuple(found.shape)}"
        )
    if not (found.isfinite().all() and (found >= 0).all()):
        raise AttnbenchError(f"attention_map of {type(module).__name__} holds negative or infinite weights")
    return found.unflatten(2, (x.shape[1], x.shape[2]))


def _share(weights: Tensor) -> Tensor:
    """(Q, H, W) divided by the sum of each query's."""
    return weights / weights.sum((1, 2), keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)


class ValuePath(TorchFunctionMode):
    """Cut the gradient of attention weights and of the places at which ``F.grid_sample`` reads.

    ``held`` tells whether there were attention weights to hold.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in _SOFTMAX:
            self.held = True
            return func(*args, **kwargs).detach()
        if func is F.scaled_dot_product_attention:
            self.held = True
            args, kwargs = _detached(args, kwargs, ("query", "key", "value", "attn_mask"), (0, 1, 3))
        elif func is F.grid_sample:
            args, kwargs = _detached(args, kwargs, ("input", "grid"), (1,))
        return func(*args, **kwargs)


_SOFTMAX = (torch.softmax, torch.Tensor.softmax, F.softmax)


def _detached(args: Any, kwargs: dict[str, Any], names: tuple[str, ...], which: tuple[int, ...]) -> Any:
    """Arguments with some of them detached, however they were passed."""
    fixed = {names[i] for i in which}
    args = tuple(_cut(a) if i in which else a for i, a in enumerate(args))
    return args, {name: _cut(value) if name in fixed else value for name, value in kwargs.items()}


def _cut(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def dependence(
    module: nn.Module, x: Tensor, queries: Tensor, *, probes: int | None = None
) -> tuple[Tensor, bool]:
    """Frobenius norm of the value path's derivative of each query by each token.

    Each direction of each query has a copy of the image of its own, so that one backward pass serves many.

    Returns:
        (Q, H, W), and whether there were attention weights to hold fixed.
    """
    _, H, W, C = x.shape
    directions = _directions(C, probes, x)
    squares = x.new_zeros(len(queries), H, W)
    held = False
    for query, channel in _pairs(len(queries), len(directions), most=_copies(H * W, C)):
        copies = x.detach().expand(len(query), -1, -1, -1).clone().requires_grad_()
        with ValuePath() as path:
            y = module(copies.clone())  # one that writes into its input writes elsewhere
        held = held or path.held
        outputs = y.flatten(1, 2)[torch.arange(len(query)), queries[query]]  # (copies, C)
        if outputs.requires_grad:
            (gradient,) = torch.autograd.grad((outputs * directions[channel]).sum(), copies)
            squares.index_add_(0, query, gradient.square().sum(-1))
    return squares.sqrt(), held


def _directions(channels: int, probes: int | None, like: Tensor) -> Tensor:
    """(M, C): all axes, or random directions in which the mean square of a derivative is the same."""
    if probes is None or probes >= channels:
        return torch.eye(channels, dtype=like.dtype, device=like.device)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(probes, channels, generator=generator, dtype=like.dtype).to(like.device)


def _copies(tokens: int, channels: int) -> int:
    """How many copies of a map fit into memory, its pairs of tokens among them."""
    return max(1, _ELEMENTS // (tokens * max(tokens, channels)))


def _pairs(queries: int, directions: int, most: int) -> Iterator[tuple[Tensor, Tensor]]:
    """All pairs of a query and a direction, ``most`` at a time."""
    pairs = torch.cartesian_prod(torch.arange(queries), torch.arange(directions)).reshape(-1, 2)
    for part in pairs.split(most):
        yield part[:, 0], part[:, 1]
