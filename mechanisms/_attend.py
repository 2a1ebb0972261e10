"""Softmax attention over the last two axes: the one formula that most mechanisms end in."""

import torch
from torch import Tensor
from torch.nn import functional as F

from attnbench.mechanisms._explicit import explicit
from attnbench.mechanisms._flex import add_bias, flex_attention


def attend(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, bias: Tensor | None = None, impl: str = "eager"
) -> Tensor:
    """softmax(scale · q kᵀ + bias) v.

    Args:
        q: (..., L, d); k, v: (..., S, d). For ``sdpa`` to find a fused kernel, all have four axes, or five
            of which the first two become one without a copy: images and windows.
        scale: factor on the logits.
        bias: added to the logits; broadcasts to (..., L, S), dtype of ``q``; −inf masks a key. Every
            query must keep at least one key.
        impl: ``eager`` (explicit matrix products and softmax), ``sdpa`` (torch's fused attention),
            ``flex`` (torch's generated kernels; four axes, bias (heads or 1, L, S)), or ``auto`` for the
            :func:`fastest` of the first two.

    Returns:
        (..., L, d).
    """
    if chosen(impl, q) == "sdpa":
        return _fused(q, k, v, scale, bias)
    if impl == "flex":
        return flex_attention(q, k, v, scale=scale, score=add_bias(bias))
    return explicit(scale, bias, q, k, v)


def attend_stacked(qkv: Tensor, *, scale: float, bias: Tensor | None = None, impl: str = "eager") -> Tensor:
    """:func:`attend` of q, k and v that lie in one tensor (3, ..., L, d): their gradient is one, too."""
    impl = chosen(impl, qkv)
    if impl == "eager":
        return explicit(scale, bias, qkv)
    q, k, v = qkv
    return attend(q, k, v, scale=scale, bias=bias, impl=impl)


def _fused(q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None) -> Tensor:
    """torch's fused attention; its kernels know four axes, so windows join the images.

    Joining them with the heads would copy q, k and v, and the bias for every window: on a CPU that cost more
    than the fused kernel saves.
    """
    if q.dim() != 5:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
    lead = q.shape[:2]
    if bias is not None:
        bias = bias if bias.dim() == 4 else bias[None]
        if bias.shape[0] > 1:  # one for each window
            bias = bias.expand(lead[0], *bias.shape).flatten(0, 1)
    q, k, v = q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale).unflatten(0, lead)


def fastest(device: torch.device, dtype: torch.dtype, training: bool, *, plain: bool = False) -> str:
    """``sdpa`` or ``eager``, whichever is faster in :func:`attend`.

    Measured on a CPU (docs/speed.md): for inference torch's fused attention gains 1.2 to 2.3 times in windows
    with a bias, and from 2 % to 4 times on a whole map without one (``plain``). Its gradients gain on such
    a map in float32, but lose a fifth to a half in windows, with a bias, or in half precision.
    """
    half = dtype not in (torch.float32, torch.float64)
    return "eager" if device.type == "cpu" and training and (half or not plain) else "sdpa"


def chosen(impl: str, x: Tensor) -> str:
    """``impl``, or the :func:`fastest` for work on ``x`` where that is ``auto``."""
    return fastest(x.device, x.dtype, torch.is_grad_enabled() and x.requires_grad) if impl == "auto" else impl


class FastestAttend:
    """For a mechanism that ends in :func:`attend` and takes ``impl="auto"``: what that runs."""

    impl: str

    def implementation(
        self, device: torch.device, dtype: torch.dtype, height: int, width: int, training: bool
    ) -> str:
        """``sdpa`` or ``eager``, whatever the map; see :func:`fastest`."""
        return fastest(device, dtype, training)


class FastestPlainAttend:
    """The same for attention over a whole map without a bias, which hands its choice to :func:`attend`."""

    impl: str

    def implementation(
        self, device: torch.device, dtype: torch.dtype, height: int, width: int, training: bool
    ) -> str:
        """``sdpa`` or ``eager``, whatever the map; see :func:`fastest`."""
        return fastest(device, dtype, training, plain=True)


def split_heads(qkv: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Cut a fused projection (B, ..., 3·C) into q, k, v, each (B, heads, ..., C / heads).

    Output order q, k, v; inside each, channel = head · d + channel of the head.
    """
    parts = qkv.unflatten(-1, (3, num_heads, -1)).movedim((-3, -2), (0, 2))
    return parts[0], parts[1], parts[2]
