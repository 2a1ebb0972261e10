"""Softmax attention over the last two axes: the one formula that most mechanisms end in."""

from torch import Tensor
from torch.nn import functional as F


def attend(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, bias: Tensor | None = None, impl: str = "eager"
) -> Tensor:
    """softmax(scale · q kᵀ + bias) v.

    Args:
        q: (..., L, d); k, v: (..., S, d). For ``sdpa`` to find a fused kernel, all have four axes.
        scale: factor on the logits.
        bias: added to the logits; broadcasts to (..., L, S), dtype of ``q``; −inf masks a key. Every
            query must keep at least one key.
        impl: ``eager`` (explicit matrix products and softmax) or ``sdpa`` (torch's fused attention).

    Returns:
        (..., L, d).
    """
    if impl == "sdpa":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
    logits = (q * scale) @ k.transpose(-2, -1)
    if bias is not None:
        logits += bias  # in place: the products' gradients do not need the bare logits
    return logits.softmax(dim=-1) @ v


def split_heads(qkv: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Cut a fused projection (B, ..., 3·C) into q, k, v, each (B, heads, ..., C / heads).

    Output order q, k, v; inside each, channel = head · d + channel of the head.
    """
    parts = qkv.unflatten(-1, (3, num_heads, -1)).movedim((-3, -2), (0, 2))
    return parts[0], parts[1], parts[2]
