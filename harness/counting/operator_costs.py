"""FLOPs of operators that torch's counter does not know, or counts wrongly; two per multiply-add.

A formula takes an operator's arguments, each tensor as its shape. Those of packages that are not loaded
cost nothing: operators are looked up by name, and none is imported.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch

Shape = Sequence[int]
Formula = Callable[..., int]


def formulas() -> dict[Any, Formula]:
    """Formulas by operator, for ``FlopCounterMode(custom_mapping=...)``.

    Read anew at each count, since a mechanism's file may be what loads xformers or natten. A formula that a
    package has registered with torch itself is left alone, but for two of torch's that are wrong here.
    """
    from torch.utils.flop_counter import flop_registry

    aten = torch.ops.aten
    found: dict[Any, Formula] = {
        aten.convolution_backward: convolution_backward,
        aten._efficient_attention_forward: efficient_attention,
        aten._efficient_attention_backward: efficient_attention_backward,
    }
    for name, formula in _OPTIONAL.items():
        operator = _operator(name)
        if operator is not None and operator not in flop_registry:
            found[operator] = formula
    return found


def convolution_backward(
    grad: Shape,
    x: Shape,
    weight: Shape,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
    output_mask: Sequence[bool],
    **_: Any,
) -> int:
    """Gradients of input and weight cost a convolution each.

    torch's own formula forgets the groups in the weight's gradient: a depth-wise convolution of C channels
    counts C times too much.
    """
    places = (x if transposed else grad)[2:]
    return 2 * grad[0] * prod(places) * prod(weight) * (output_mask[0] + output_mask[1])


def dense_attention(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """natten's full attention on (B, L, heads, d): q kᵀ and its product with v."""
    return _attention(_pairs(query, key), query[-1], value[-1])


def dense_attention_backward(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """Its backward pass."""
    return _attention_backward(_pairs(query, key), query[-1], value[-1])


def efficient_attention(
    query: Shape,
    key: Shape,
    value: Shape,
    bias: Any = None,
    cu_seqlens_q: Shape | None = None,
    cu_seqlens_k: Shape | None = None,
    max_seqlen_q: int | None = None,
    max_seqlen_k: int | None = None,
    *_: Any,
    **__: Any,
) -> int:
    """xformers' CUTLASS kernel, which torch holds: (B, L, heads, d), or all sequences in one row.

    torch's own formula takes the axes for (B, heads, L, d). Sequences in a row count with their longest.
    """
    pairs = _pairs(query, key, cu_seqlens_q, max_seqlen_q, max_seqlen_k)
    return _attention(pairs, query[-1], value[-1])


def efficient_attention_backward(
    grad_out: Shape,
    query: Shape,
    key: Shape,
    value: Shape,
    bias: Any,
    out: Shape,
    cu_seqlens_q: Shape | None = None,
    cu_seqlens_k: Shape | None = None,
    max_seqlen_q: int | None = None,
    max_seqlen_k: int | None = None,
    *_: Any,
    **__: Any,
) -> int:
    """Its backward pass."""
    pairs = _pairs(query, key, cu_seqlens_q, max_seqlen_q, max_seqlen_k)
    return _attention_backward(pairs, query[-1], value[-1])


def flash_attention(
    query: Shape,
    key: Shape,
    value: Shape,
    cu_seqlens_q: Shape | None,
    cu_seqlens_k: Shape | None,
    seqused_k: Any,
    max_seqlen_q: int,
    max_seqlen_k: int,
    *_: Any,
    **__: Any,
) -> int:
    """xformers' flash attention: (B, L, heads, d), or all sequences in one row (tokens, heads, d)."""
    pairs = _pairs(query, key, cu_seqlens_q, max_seqlen_q, max_seqlen_k)
    return _attention(pairs, query[-1], value[-1])


def flash_attention_backward(
    grads_share_storage: bool,
    grad: Shape,
    query: Shape,
    key: Shape,
    value: Shape,
    out: Shape,
    lse: Shape,
    cu_seqlens_q: Shape | None,
    cu_seqlens_k: Shape | None,
    max_seqlen_q: int,
    max_seqlen_k: int,
    *_: Any,
    **__: Any,
) -> int:
    """Its backward pass."""
    pairs = _pairs(query, key, cu_seqlens_q, max_seqlen_q, max_seqlen_k)
    return _attention_backward(pairs, query[-1], value[-1])


def neighborhood_attention(
    query: Shape, key: Shape, value: Shape, kernel_size: Sequence[int], *_: Any, **__: Any
) -> int:
    """natten: each query, on (B, ..., heads, d), and the product of the kernel's sides in keys."""
    return _attention(prod(query[:-1]) * prod(kernel_size), query[-1], value[-1])


def neighborhood_attention_backward(
    query: Shape,
    key: Shape,
    value: Shape,
    output: Shape,
    d_output: Shape,
    logsumexp: Shape,
    kernel_size: Sequence[int],
    *_: Any,
    **__: Any,
) -> int:
    """Its backward pass."""
    return _attention_backward(prod(query[:-1]) * prod(kernel_size), query[-1], value[-1])


def flex_attention(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """torch's flex attention on (B, heads, L, d), as if no block were skipped: an upper bound."""
    return _attention(query[0] * query[1] * query[2] * key[2], query[-1], value[-1])


def flex_attention_backward(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """Its backward pass."""
    return _attention_backward(query[0] * query[1] * query[2] * key[2], query[-1], value[-1])


def sdpa_on_cpu_backward(grad_out: Shape, query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """torch's fused attention on a CPU, unknown to torch's counter; forward it is as flex attention."""
    return flex_attention_backward(query, key, value)


def free(*_: Any, **__: Any) -> int:
    """Moves tokens about."""
    return 0


def _attention(pairs: int, d: int, d_v: int) -> int:
    """q kᵀ over d channels, and the weights times v of d_v channels, for ``pairs`` of query, key and head."""
    return 2 * pairs * (d + d_v)


def _attention_backward(pairs: int, d: int, d_v: int) -> int:
    """Fused kernels form q kᵀ again; then the gradients of weights, v, q and k: five products."""
    return 2 * pairs * (3 * d + 2 * d_v)


def _pairs(
    q: Shape,
    k: Shape,
    sequences: Shape | None = None,
    longest_q: int | None = None,
    longest_k: int | None = None,
) -> int:
    """Query, key and head: of (B, L, heads, d), or of sequences in one row, given where each begins."""
    if sequences is None:
        return q[0] * q[1] * k[1] * q[2]
    return (sequences[0] - 1) * (longest_q or q[-3]) * (longest_k or k[-3]) * q[-2]


_OPTIONAL: dict[str, Formula] = {
    "aten::_scaled_dot_product_flash_attention_for_cpu": flex_attention,
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": sdpa_on_cpu_backward,
    "xformers_flash::flash_fwd": flash_attention,
    "xformers_flash::flash_bwd": flash_attention_backward,
    "higher_order::flex_attention": flex_attention,
    "higher_order::flex_attention_backward": flex_attention_backward,
}
for _kind in ("", "hopper_", "blackwell_"):
    _OPTIONAL[f"natten::{_kind}fmha_forward"] = dense_attention
    _OPTIONAL[f"natten::{_kind}fmha_backward"] = dense_attention_backward
for _axes in (1, 2, 3):
    for _kind in ("", "hopper_", "blackwell_", "reference_"):
        _OPTIONAL[f"natten::{_kind}na{_axes}d_forward"] = neighborhood_attention
        _OPTIONAL[f"natten::{_kind}na{_axes}d_backward"] = neighborhood_attention_backward
    for _kind in ("permute", "unpermute", "permute_varlen", "unpermute_varlen"):
        _OPTIONAL[f"natten::token_{_kind}_{_axes}d"] = free


def _operator(name: str) -> Any:
    """The operator ``namespace::name``, or None where what defines it is not loaded."""
    namespace, _, short = name.partition("::")
    return getattr(getattr(torch.ops, namespace), short, None)
