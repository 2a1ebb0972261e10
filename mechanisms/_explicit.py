"""Explicit attention, softmax(scale · q kᵀ + bias) v, by matrix products; on a CPU written out by hand.

What torch makes of the formula goes through memory more often than the mathematics needs: the scale is a
pass over q and one over its gradient, the bias another over the logits, the gradients of q, k and v are
copied into one, and under autocast softmax goes to float32 and back (docs/speed.md). Softmax over few keys is
slow where these lie last, so they may lie first; heads that lie between the channels of a token are not
copied to lie apart, but taken image by image.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from attnbench.mechanisms._autocast import autocast_dtype
from attnbench.mechanisms._by_hand import by_hand

_WEIGHTS_OF_AN_IMAGE = 1 << 16
_FEW_WEIGHTS = 1 << 17
"""With fewer, gradients in Python cost more than the passes over memory that they save."""


def explicit(scale: float, bias: Tensor | None, *qkv: Tensor) -> Tensor:
    """softmax(scale · q kᵀ + bias) v.

    Args:
        scale, bias: see :func:`attnbench.mechanisms._attend.attend`.
        qkv: q (..., L, d), k and v (..., S, d); or these three stacked in one tensor (3, ..., L, d), whose
            gradient is then not put together from three.

    Returns:
        (..., L, d).
    """
    given = (*qkv, *(() if bias is None else (bias,)))
    if not by_hand(*given) or given[0].dim() < 3 or len({t.shape[:-2] for t in qkv}) > 1:
        return _formula(scale, bias, *qkv)
    if (dtype := autocast_dtype(qkv[0])) is not None:
        qkv = tuple(t.to(dtype) for t in qkv)
    bias = None if bias is None else bias.to(qkv[0].dtype)
    trained = torch.is_grad_enabled() and any(t.requires_grad for t in given)
    if trained and bias is None and _few(*_parts(qkv)[:2]):
        with torch.autocast("cpu", enabled=False):  # softmax stays in the dtype that it is given, as below
            return _formula(scale, bias, *qkv)
    if not _by_image(bias, *_parts(qkv)):
        qkv = tuple(t.contiguous() for t in qkv)
    if trained:
        out: Tensor = _ByHand.apply(scale, bias, *qkv)
        return out
    return attend(scale, bias, *qkv)[0]


def _formula(scale: float, bias: Tensor | None, *qkv: Tensor) -> Tensor:
    q, k, v = _parts(qkv)
    logits = (q * scale) @ k.transpose(-2, -1)
    if bias is not None:
        logits += bias  # in place: the products' gradients do not need the bare logits
    return logits.softmax(dim=-1) @ v


def _parts(qkv: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return qkv if len(qkv) == 3 else qkv[0].unbind(0)


def _keys_first(q: Tensor, k: Tensor) -> bool:
    """Whether softmax is faster over the axis before the last (docs/speed.md).

    It is where the keys of a query do not fill a vector of the CPU, by up to nineteen times, and where they
    fill few of them and the last in part, for queries enough.
    """
    lanes = {"AVX2": 32, "AVX512": 64}.get(torch.backends.cpu.get_cpu_capability(), 0) // k.element_size()
    keys, queries = k.shape[-2], q.shape[-2]
    return keys < lanes or (lanes > 0 and keys < 64 and keys % lanes > 0 and queries >= 4 * lanes)


def _few(q: Tensor, k: Tensor) -> bool:
    """Whether autograd's gradients are the faster ones."""
    return q.shape[:-1].numel() * k.shape[-2] < _FEW_WEIGHTS and not _keys_first(q, k)


def _by_image(bias: Tensor | None, q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether the heads of all images make one batch of matrices only when copied, and that costs more.

    It does not in half precision, nor for images of few weights.
    """
    if bias is not None or q.dim() != 4 or q.element_size() == 2:
        return False
    enough = q.shape[1] * q.shape[2] * k.shape[2] >= _WEIGHTS_OF_AN_IMAGE
    parts = (q, k, v)
    return enough and all(t.stride(-1) == 1 for t in parts) and not all(t.is_contiguous() for t in parts)


def _batches(by_image: bool, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The tensors as batches (n, rows, columns) of matrices: the heads of each image, or all at once."""
    if by_image:
        yield from zip(*tensors, strict=True)
    else:
        yield tuple(t.flatten(0, -3) for t in tensors)


def attend(scale: float, bias: Tensor | None, *qkv: Tensor) -> tuple[Tensor, Tensor]:
    """Output (..., L, e) and weights (..., L, S); ``attnbench explain`` shows it under this name."""
    q, k, v = _parts(qkv)
    keys_first, by_image = _keys_first(q, k), _by_image(bias, q, k, v)
    rows, columns = (k, q) if keys_first else (q, k)
    logits = q.new_empty(*rows.shape[:-1], columns.shape[-2])
    if bias is not None:
        (logits.transpose(-2, -1) if keys_first else logits).copy_(bias)
    weights = torch.empty_like(logits)
    shape = (*q.shape[:-1], v.shape[-1])
    if by_image:  # the heads lie between the channels in the output, too
        heads, tokens, e = shape[1:]
        out = q.new_empty_strided(shape, (tokens * heads * e, e, heads * e, 1))
    else:
        out = q.new_empty(shape)
    for s, a, b, p, values, o in _batches(by_image, logits, rows, columns, weights, v, out):
        torch.baddbmm(s, a, b.transpose(1, 2), beta=int(bias is not None), alpha=scale, out=s)
        # Into a tensor given, which autocast leaves alone; not in place, which takes half as long again.
        torch.softmax(s, 1 if keys_first else 2, out=p)
        torch.bmm(p.transpose(1, 2) if keys_first else p, values, out=o)
    return out, weights.transpose(-2, -1) if keys_first else weights


class _ByHand(torch.autograd.Function):
    """With P = softmax(S), S = scale · Q Kᵀ + bias: dV = Pᵀ dO, dP = dO Vᵀ, dS = P ⊙ (dP − rowsum(P ⊙ dP)),
    dQ = scale · dS K, dK = scale · dSᵀ Q, and the gradient of the bias is dS.

    Second derivatives are autograd's, of the formula.
    """

    @staticmethod
    def forward(ctx: Any, scale: float, bias: Tensor | None, *qkv: Tensor) -> Tensor:
        out, weights = attend(scale, bias, *qkv)
        ctx.save_for_backward(weights, bias, *qkv)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weights, bias, *qkv = ctx.saved_tensors
        if torch.is_grad_enabled():
            return None, *_differentiable(ctx.scale, bias, qkv, grad)
        found = [torch.empty_like(t) for t in qkv]
        parts = _parts(tuple(qkv))
        by_image = _by_image(bias, *parts)
        given = (weights, grad if grad.stride(-1) == 1 else grad.contiguous(), *parts)
        ds = weights  # of the last batch; there is a bias only where there is one batch
        for tensors in _batches(by_image, *given, *_parts(tuple(found))):
            ds = _gradients(ctx.scale, _keys_first(*parts[:2]), *tensors)
        of_bias = None
        if ctx.needs_input_grad[1]:
            of_bias = ds.unflatten(0, weights.shape[:-2]).sum_to_size(bias.shape)
        return None, of_bias, *found


def _gradients(
    scale: float,
    keys_first: bool,
    p: Tensor,
    do: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dq: Tensor,
    dk: Tensor,
    dv: Tensor,
) -> Tensor:
    """Fills the last three, all batches of matrices, and gives dS (n, L, S)."""
    torch.bmm(p.transpose(1, 2), do, out=dv)
    if keys_first:
        dp = torch.bmm(v, do.transpose(1, 2))
        ds = torch.ops.aten._softmax_backward_data(dp, p.transpose(1, 2), 1, p.dtype).transpose(1, 2)
    else:
        ds = torch.ops.aten._softmax_backward_data(torch.bmm(do, v.transpose(1, 2)), p, 2, p.dtype)
    torch.baddbmm(dq, ds, k, beta=0, alpha=scale, out=dq)
    torch.baddbmm(dk, ds.transpose(1, 2), q, beta=0, alpha=scale, out=dk)
    return ds


def _differentiable(
    scale: float, bias: Tensor | None, qkv: list[Tensor], grad: Tensor
) -> tuple[Tensor | None, ...]:
    """The gradients of bias and ``qkv`` as functions that have gradients themselves."""
    with torch.enable_grad():  # by names of their own: what is behind one may be behind another, too
        bias = None if bias is None else bias.view_as(bias)
        qkv = [t.view_as(t) for t in qkv]
        inputs = [bias, *qkv]
        wanted = [t for t in inputs if t is not None and t.requires_grad]
        out = _formula(scale, bias, *qkv)
    found = iter(torch.autograd.grad(out, wanted, grad, create_graph=True))
    return tuple(next(found) if t is not None and t.requires_grad else None for t in inputs)
