"""torch's FlexAttention: a kernel generated for one pattern, given as rules on token numbers.

Compiled on first use, and anew for each shape, which takes seconds. Gradients exist on CUDA devices only.
"""

import functools
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from attnbench.errors import ImplementationError

Rule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Of image, head, query and key, as numbers: whether the query attends to the key."""
Score = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""Of a logit, already scaled, and the four numbers: the logit to take."""

MIN_HEAD_DIM = 16  # of the kernels on CUDA: the least that a matrix unit takes
_blocks: WeakKeyDictionary[nn.Module, dict[Any, Any]] = WeakKeyDictionary()


def flex_attention(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, score: Score | None = None, blocks: Any = None
) -> Tensor:
    """Attention under a rule for logits and a block mask (:func:`block_mask`).

    Args:
        q: (B, heads, L, d); k, v: (B, heads, S, d).

    Returns:
        (B, heads, L, d).

    Raises:
        ImplementationError: gradients or float64 are asked for on a CPU, or a head is too narrow for CUDA.
    """
    if q.device.type != "cuda" and torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v)):
        raise ImplementationError(
            "implementation 'flex' cannot run here: "
            f"it has no gradients on {q.device.type!r}; use impl='auto'"
        )
    if q.device.type == "cpu" and q.dtype == torch.float64:
        raise ImplementationError(
            "implementation 'flex' cannot run here: it has no float64 on a CPU; use impl='auto'"
        )
    if q.device.type == "cuda" and q.shape[-1] < MIN_HEAD_DIM:
        raise ImplementationError(
            f"implementation 'flex' cannot run here: it needs heads of at least {MIN_HEAD_DIM} channels, "
            f"got {q.shape[-1]}; use impl='auto'"
        )
    # A model has a shape per stage, dtype and mode, each with a kernel of its own.
    with torch._dynamo.config.patch(recompile_limit=256):
        out: Tensor = _compiled()(q, k, v, score_mod=score, block_mask=blocks, scale=scale)
    return out


def add_bias(bias: Tensor | None) -> Score | None:
    """The rule that adds a bias (heads or 1, L, S) to logits; −inf masks a key."""
    if bias is None:
        return None
    dense, shared = bias, bias.shape[0] == 1

    def score(logit: Tensor, image: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return logit + dense[torch.zeros_like(head) if shared else head, query, key]

    return score


def block_mask(owner: nn.Module, key: Any, tokens: int, device: torch.device, rule: Rule) -> Any:
    """Which blocks of 128 × 128 pairs a rule leaves, the same for all images and heads.

    It is drawn up once for each ``key`` (what the rule depends on) and kept as long as ``owner`` lives.
    """
    from torch.nn.attention.flex_attention import create_block_mask

    kept = _blocks.setdefault(owner, {})
    if key not in kept:
        kept[key] = create_block_mask(rule, None, None, tokens, tokens, device=str(device))
    return kept[key]


@functools.cache
def _compiled() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention as generated

    return torch.compile(generated, fullgraph=True, dynamic=False)
