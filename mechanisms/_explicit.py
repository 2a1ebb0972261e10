"""Explicit attention, softmax(scale · q kᵀ + bias) v, by matrix products; on a CPU written out by hand.

What torch makes of the formula goes through memory more often than the mathematics needs: the scale is a
pass over q and one over its gradient, the bias another over the logits, the gradients of q, k and v are
copied into one, and under autocast softmax goes to float32 and back (docs/speed.md).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from attnbench.mechanisms._autocast import autocast_dtype


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
    if not _by_hand(*given) or len({t.shape[:-2] for t in qkv}) > 1:
        return _formula(scale, bias, *qkv)
    if (dtype := autocast_dtype(qkv[0])) is not None:
        qkv = tuple(t.to(dtype) for t in qkv)
    bias = None if bias is None else bias.to(qkv[0].dtype)
    qkv = tuple(t.contiguous() for t in qkv)
    if torch.is_grad_enabled() and any(t.requires_grad for t in given):
        out: Tensor = _ByHand.apply(scale, bias, *qkv)
        return out
    return attend(scale, bias, *qkv)[0]


def _by_hand(*given: Tensor) -> bool:
    """On a CPU, and where nobody looks into the operators.

    torch.compile, a tracer, torch.func and forward mode get the formula, since they make their own of it, and
    so does a mode that overrides functions: it may hold softmax fixed.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined]
        return False
    if any(t.device.type != "cpu" for t in given) or given[0].dim() < 3:
        return False
    if forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active():
        return False
    return not torch._C._len_torch_function_stack()


def _formula(scale: float, bias: Tensor | None, *qkv: Tensor) -> Tensor:
    q, k, v = _parts(qkv)
    logits = (q * scale) @ k.transpose(-2, -1)
    if bias is not None:
        logits += bias  # in place: the products' gradients do not need the bare logits
    return logits.softmax(dim=-1) @ v


def _parts(qkv: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return qkv if len(qkv) == 3 else qkv[0].unbind(0)


def attend(scale: float, bias: Tensor | None, *qkv: Tensor) -> tuple[Tensor, Tensor]:
    """Output (..., L, d) and weights (..., L, S); ``attnbench explain`` shows it under this name."""
    q, k, v = _parts(qkv)
    logits = q.new_empty(*q.shape[:-1], k.shape[-2])
    if bias is not None:
        logits.copy_(bias)
    s, keys = logits.flatten(0, -3), k.flatten(0, -3).transpose(1, 2)
    torch.baddbmm(s, q.flatten(0, -3), keys, beta=int(bias is not None), alpha=scale, out=s)
    # Into a tensor given, which autocast leaves alone; not in place, which takes half as long again.
    weights = torch.softmax(logits, -1, out=torch.empty_like(logits))
    return torch.bmm(weights.flatten(0, -3), v.flatten(0, -3)).unflatten(0, q.shape[:-2]), weights


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
        q, k, v = (t.flatten(0, -3) for t in _parts(tuple(qkv)))
        dq, dk, dv = (t.flatten(0, -3) for t in _parts(tuple(found)))
        p, do = weights.flatten(0, -3), grad.flatten(0, -3)
        torch.bmm(p.transpose(1, 2), do, out=dv)
        ds = torch.ops.aten._softmax_backward_data(torch.bmm(do, v.transpose(1, 2)), p, -1, p.dtype)
        torch.baddbmm(dq, ds, k, beta=0, alpha=ctx.scale, out=dq)
        torch.baddbmm(dk, ds.transpose(1, 2), q, beta=0, alpha=ctx.scale, out=dk)
        of_bias = ds.view_as(weights).sum_to_size(bias.shape) if ctx.needs_input_grad[1] else None
        return None, of_bias, *found


def _differentiable(
    scale: float, bias: Tensor | None, qkv: list[Tensor], grad: Tensor
) -> tuple[Tensor | None, ...]:
    """The gradients of bias and ``qkv`` as functions that have gradients themselves."""
    inputs = [bias, *qkv]
    wanted = [t for t in inputs if t is not None and t.requires_grad]
    with torch.enable_grad():
        out = _formula(scale, bias, *qkv)
    found = iter(torch.autograd.grad(out, wanted, grad, create_graph=True))
    return tuple(next(found) if t is not None and t.requires_grad else None for t in inputs)
