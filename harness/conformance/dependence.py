"""Measure what a module's output tokens depend on: from Jacobians, and from where the output jumps.

Two kinds of evidence tell a pattern that follows the image from a static one.

*Support.* Entry (i, j, c) is true where output token i has a non-zero derivative by channel c of input token
j. Positions that are computed from the image, such as indices or the grid of ``F.grid_sample``, are held
fixed: an index has no derivative, and a place at which the map is read is an address, not a value. If the
supports of several images differ, the attended positions move with the image. If the entries of a key that
move do so together for all queries of an image, the queries share the choice; if, in one image, two queries
disagree about a key that moves for both, the choice is theirs. (Channels tell apart groups of channels that
are read at places of their own; together they may read every token of every image.)

*Jumps.* A mechanism that also sees the whole map coarsely has full support on every image. But where a
selection flips, its output jumps: soft attention is continuous in the image, a choice is not. Bisection
between two images finds such points exactly, and there the tokens that jump are those whose choice flipped:
all of them where the image chooses for all, some where queries choose.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from attnbench.harness.conformance.subject import noise, run

QUERIES, STEPS, PARTS, ROUNDS = 6, 25, 4, 17


class FixedAddresses(TorchFunctionMode):
    """Cut the gradient of the places at which ``F.grid_sample`` reads."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is F.grid_sample:
            if len(args) > 1:
                args = (args[0], args[1].detach(), *args[2:])
            else:
                kwargs["grid"] = kwargs["grid"].detach()
        return func(*args, **kwargs)


def support(module: nn.Module, x: Tensor, *, fixed_addresses: bool = False) -> Tensor:
    """(N, N, C) bool: where output token i of one image depends on channel c of its input token j.

    Args:
        module: maps (1, H, W, C) to (1, H, W, C), in float64.
        x: (1, H, W, C).
        fixed_addresses: see above; otherwise places have the gradient that autograd gives them.
    """
    n = x.shape[1] * x.shape[2]
    x = x.detach().requires_grad_()
    if fixed_addresses:
        with FixedAddresses():
            y = run(module, x)
    else:
        y = run(module, x)
    weights = noise((y.shape[-1],), seed=7)  # of the channels, so that none cancels another
    tokens = (y * weights).sum(-1).flatten()
    if not tokens.requires_grad:
        return torch.zeros(n, n, x.shape[-1], dtype=torch.bool)
    rows = (torch.autograd.grad(token, x, retain_graph=True, allow_unused=True)[0] for token in tokens)
    zero = torch.zeros_like(x)
    return torch.stack([(zero if row is None else row).ne(0).view(n, -1) for row in rows])


def moving(supports: Tensor) -> tuple[bool, bool]:
    """Whether the supports (images, N, N, C) move with the image, and whether by query.

    By query: in some image, two queries disagree about a key whose entry moves for both.
    """
    moves = supports.any(0) & ~supports.all(0)
    disagree = (supports & moves).any(1) & (~supports & moves).any(1)  # (images, N, C)
    return bool(moves.any()), bool(disagree.any())


def jumps(module: nn.Module, one: Tensor, other: Tensor) -> Tensor:
    """(found, N) bool: for each jump of the output between two images, the tokens that jump.

    For a few tokens, the interval between the images where the change is least like that of its neighbours
    is cut into four, again and again; over the last one a continuous output changes by some 1e-10.
    """
    n = one.shape[1] * one.shape[2]
    queries = torch.linspace(0, n - 1, min(QUERIES, n)).long()
    rows = torch.arange(len(queries))

    def along(t: Tensor) -> Tensor:
        """Outputs (*t.shape, N, C) at places t between the images."""
        with torch.no_grad():
            y = run(module, torch.lerp(one, other, t.reshape(-1, 1, 1, 1)))
        return y.reshape(*t.shape, n, -1)

    t = torch.linspace(0, 1, STEPS + 1, dtype=one.dtype)
    y = along(t)
    scale = y.abs().max()
    change = y.diff(dim=0)[:, queries].transpose(0, 1)  # (queries, STEPS, C)
    neighbours = torch.stack((change[:, :-2], change[:, 2:])).mean(0)
    at = 1 + (change[:, 1:-1] - neighbours).abs().amax(-1).argmax(1)
    low, high, y_low, y_high = t[at], t[at + 1], y[at], y[at + 1]
    for _ in range(ROUNDS):
        t = low[:, None] + (high - low)[:, None] * torch.linspace(0, 1, PARTS + 1, dtype=low.dtype)
        y = torch.cat((y_low[:, None], along(t[:, 1:-1]), y_high[:, None]), dim=1)
        change = y[rows, :, queries].diff(dim=1)  # (queries, PARTS, C)
        at = (change - change.median(1, keepdim=True).values).abs().amax(-1).argmax(1)
        low, high, y_low, y_high = t[rows, at], t[rows, at + 1], y[rows, at], y[rows, at + 1]
    jumped = (y_high - y_low).abs().amax(-1) > 1e-6 * scale
    return jumped[jumped.any(1)]
