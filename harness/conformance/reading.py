"""Check: what a picture shows that a token reads is what the mechanism lets it read (docs/visualize.md)."""

from typing import Any

import torch
from torch import Tensor, nn

from attnbench.errors import AttnbenchError
from attnbench.harness.conformance.subject import EQUAL, ODD, Failure, Size, Subject, check, run, show
from attnbench.harness.visualize.reads import ValuePath, dependence, weights_of

QUERIES = 5
DIRECTIONS = 2
"""Random ones, for the value path: a derivative that is not zero is seen along each, almost surely."""


@check("support", "padding_not_attended")
def attention_map(subject: Subject) -> str:
    """What attention_map says that a token reads lies within support(height, width), and adds up to one.

    It must also be what the output depends on for this very image, by the value path: so is a mechanism held
    that may read everything and chooses. The sums are those of each head, where the module runs a softmax.
    Of a class without ``attention_map`` the value path, which pictures show instead, must lie within support.
    """
    declares, soft = False, False
    for site, _, size in subject.cases((7, 7), ODD):
        module: Any = subject.build(site, "eager")
        x = subject.image(site, size)
        queries = torch.linspace(0, size[0] * size[1] - 1, QUERIES).long()
        allowed = module.support(*size)[queries]
        found, _ = dependence(module, x, queries, probes=DIRECTIONS)
        depends = found.flatten(1) > 0
        _within(depends, allowed, queries, size, "is read along the value path, which support() denies")
        if not hasattr(module, "attention_map"):
            continue
        declares = True
        weights = _weights(module, x, queries)
        seen = (weights > 0).any(1)
        _within(seen, allowed, queries, size, "has weight in attention_map, which support() denies")
        _within(seen, depends, queries, size, "has weight in attention_map, but the output ignores it")
        if _runs_softmax(module, x):
            soft = True
            _add_up(weights.sum(2), queries, size)
    maps = f"maps 7 × 7, {show(ODD)}"
    if not declares:
        return f"no attention_map; the value path lies within support() on {maps}"
    sums = "; each head's weights add up to one" if soft else ""
    return f"{maps}: zero outside of support() and of what the output depends on{sums}"


def _weights(module: Any, x: Tensor, queries: Tensor) -> Tensor:
    """(Q, heads, N), from the module."""
    try:
        return weights_of(module, x, queries).flatten(2)
    except AttnbenchError as error:
        raise Failure(str(error)) from error


def _runs_softmax(module: nn.Module, x: Tensor) -> bool:
    with ValuePath() as path:
        run(module, x)
    return path.held


def _within(seen: Tensor, allowed: Tensor, queries: Tensor, size: Size, what: str) -> None:
    """Fail unless the tokens (Q, N) that the queries were seen to read are among the allowed."""
    wrong = (seen & ~allowed).nonzero()
    if len(wrong):
        query, token = _place(queries[wrong[0, 0]], size), _place(wrong[0, 1], size)
        raise Failure(f"of output {query}, token {token} {what} ({len(wrong)} such pairs)")


def _add_up(sums: Tensor, queries: Tensor, size: Size) -> None:
    """Fail unless the sums (Q, heads) are one."""
    wrong = ((sums - 1).abs() > EQUAL).nonzero()
    if len(wrong):
        query, head = wrong[0]
        raise Failure(
            f"of output {_place(queries[query], size)}, the weights of head {int(head)} add up to "
            f"{float(sums[query, head]):.4g}, not to one as a softmax's do"
        )


def _place(token: Tensor, size: Size) -> tuple[int, int]:
    """Row and column."""
    return divmod(int(token), size[1])
