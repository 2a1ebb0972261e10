"""Fused bi-level routing attention in Triton: the public function, the operators, their gradients.

Same functions as the eager twins, ``eager.map_attention`` and ``eager.route``. Four custom operators, so that
they can be compiled (``fullgraph=True``), exported, checkpointed and captured in a CUDA graph: nothing waits
for the GPU and no shape depends on data. The kernels are in the ``triton_*`` files beside this one,
imported when first run, so that this file imports without Triton.

Every sum has a fixed order and there are no atomics: results are the same from run to run, and a
deterministic mode would cost nothing.

float32: matrix products by three TF32 products each (``tf32x3``; docs/bra_fused.md has its error), by one, as
for torch's own products, only where torch has been told to (``torch.backends.cuda.matmul.fp32_precision``).
"""

import functools
import importlib.util
import os
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from attnbench.mechanisms.bra.once import differentiable_once
from attnbench.mechanisms.bra.triton_launch import Problem

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def attention(
    qkv: Tensor,
    routes: Tensor,
    lepe_weight: Tensor | None,
    lepe_bias: Tensor | None,
    *,
    num_heads: int,
    region: tuple[int, int],
    scale: float,
    attend_padding: bool,
    dim: int | None = None,
) -> Tensor:
    """All of the mechanism between its two projections but the routing; see ``eager.map_attention``.

    Args:
        qkv: (B, H, W, 2·qk_dim + C) float32, bfloat16 or float16 on a CUDA device.
        routes: (B, R, k) int64 region numbers, which differ within a region.
        lepe_weight, lepe_bias: (C, 1, K, K) and (C,), in any floating dtype, or ``None``.
        num_heads, region, scale, attend_padding, dim: as for the twin.

    Returns:
        (B, H, W, C) in the dtype of ``qkv``, contiguous; gradients reach ``qkv`` and both of LePE.

    Raises:
        ValueError: :func:`unsupported` gives a reason.
    """
    if dim is None:
        dim = qkv.shape[3] // 3 if lepe_weight is None else lepe_weight.shape[0]
    h, w = region
    return bra_forward(
        qkv, routes, lepe_weight, lepe_bias, num_heads, dim, h, w, float(scale), attend_padding
    )[0]


def route(qkv: Tensor, qk_dim: int, region: tuple[int, int], topk: int) -> Tensor:
    """(B, R, k) regions that each region attends to, best first; see ``eager.route``.

    Means and scores are in float32 whatever the dtype of ``qkv``: in bfloat16 the choice may differ from the
    twin's, towards that in float64. No gradient passes.
    """
    return bra_route(qkv.detach(), qk_dim, *region, topk)


def unsupported(
    qkv: Tensor,
    *,
    num_heads: int,
    region: tuple[int, int],
    topk: int,
    lepe_kernel: int,
    dim: int | None = None,
) -> str:
    """Why these kernels cannot take this problem; empty if they can. Runs nothing on the device."""
    reason = unavailable(qkv.device.type)
    if reason:
        return reason
    if qkv.dtype not in _DTYPES:
        return f"the kernels are for float32, bfloat16 and float16, got {qkv.dtype}"
    dim = qkv.shape[3] // 3 if dim is None else dim
    widths = (qkv.shape[3] - dim) // 2, dim
    if any(width % num_heads or not 1 <= width // num_heads <= 128 for width in widths):
        return f"head dims must be whole and at most 128, got widths {widths} in {num_heads} heads"
    if qkv.shape[1] * qkv.shape[2] * qkv.shape[3] >= 2**31:
        return f"an image must have fewer than 2^31 values, got {tuple(qkv.shape[1:])}"
    if min(region) < 1 or topk < 1 or (lepe_kernel and lepe_kernel % 2 == 0):
        return f"region and topk must be positive and LePE's kernel odd, got {region}, {topk}, {lepe_kernel}"
    return ""


@torch.compiler.assume_constant_result  # so that a compiled module can ask, too
@functools.cache
def unavailable(device: str) -> str:
    """Why Triton cannot run on this kind of device here."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return ""
    if device != "cuda":
        return f"Triton's kernels run on CUDA devices, got a tensor on {device!r}"
    if torch.version.cuda is None or not torch.cuda.is_available():
        return "there is no CUDA device here"
    capability = torch.cuda.get_device_capability()
    if capability < (8, 0):
        return f"the kernels need compute capability 8.0, this device has {capability[0]}.{capability[1]}"
    return ""


def problem_of(
    qkv: Tensor,
    routes: Tensor,
    lepe_weight: Tensor | None,
    num_heads: int,
    dim: int,
    region_h: int,
    region_w: int,
    scale: float,
    attend_padding: bool,
) -> Problem:
    """The numbers that a call's launches follow from."""
    B, H, W, channels = qkv.shape
    return Problem(
        B, H, W,
        heads=num_heads,
        qk=(channels - dim) // 2 // num_heads,
        v=dim // num_heads,
        region=(region_h, region_w),
        topk=routes.shape[-1],
        scale=scale,
        attend_padding=attend_padding,
        lepe=0 if lepe_weight is None else lepe_weight.shape[-1],
        element_bytes=qkv.element_size(),
        precision="tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "tf32x3",
    )  # fmt: skip


@torch.library.custom_op("attnbench::bra_route", mutates_args=())
def bra_route(qkv: Tensor, qk_dim: int, region_h: int, region_w: int, topk: int) -> Tensor:
    """(B, R, min(topk, R)) int64."""
    from attnbench.mechanisms.bra import triton_route as kernels

    routes = _routes(qkv, region_h, region_w, topk)
    B, R, _ = routes.shape
    means = qkv.new_empty((B, R, 2 * qk_dim), dtype=torch.float32)
    kernels.means_launch(qkv.contiguous(), means, (region_h, region_w)).run()
    if R > kernels.MOST_REGIONS:
        q, k = means.split(qk_dim, dim=-1)
        return (q @ k.transpose(1, 2)).topk(routes.shape[2], dim=-1).indices
    kernels.choice_launch(means, routes).run()
    return routes


@bra_route.register_fake
def _(qkv: Tensor, qk_dim: int, region_h: int, region_w: int, topk: int) -> Tensor:
    return _routes(qkv, region_h, region_w, topk)


def _routes(qkv: Tensor, region_h: int, region_w: int, topk: int) -> Tensor:
    B, H, W, _ = qkv.shape
    regions = -(-H // region_h) * -(-W // region_w)
    return qkv.new_empty((B, regions, min(topk, regions)), dtype=torch.int64)


@torch.library.custom_op("attnbench::bra_forward", mutates_args=())
def bra_forward(
    qkv: Tensor,
    routes: Tensor,
    lepe_weight: Tensor | None,
    lepe_bias: Tensor | None,
    num_heads: int,
    dim: int,
    region_h: int,
    region_w: int,
    scale: float,
    attend_padding: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Output, log2-sum-exp2 (B, heads, H·W), and what the kernels walked: routing bits, or nothing."""
    from attnbench.mechanisms.bra import triton_forward as forward
    from attnbench.mechanisms.bra import triton_lists as lists

    qkv, routes = qkv.contiguous(), routes.contiguous()
    taps, bias = _taps_first(lepe_weight), None if lepe_bias is None else lepe_bias.contiguous()
    problem = problem_of(qkv, routes, lepe_weight, num_heads, dim, region_h, region_w, scale, attend_padding)
    _check(qkv, routes, problem)
    out, lse, bits = _outputs(qkv, problem)
    if problem.masked:
        lists.bits_launch(routes, bits).run()
    index = bits if problem.masked else routes
    forward.forward_launch(qkv, index, taps, bias, out, lse, problem).run()
    return out, lse, bits


@bra_forward.register_fake
def _(qkv: Tensor, routes: Tensor, lepe_weight: Tensor | None, *arguments: Any) -> tuple[Tensor, ...]:
    _, num_heads, dim, *rest = arguments
    return _outputs(qkv, problem_of(qkv, routes, lepe_weight, num_heads, dim, *rest))


def _outputs(qkv: Tensor, problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    B, H, W = qkv.shape[:3]
    out = qkv.new_empty((B, H, W, problem.heads * problem.v))
    lse = qkv.new_empty((B, problem.heads, H * W), dtype=torch.float32)
    words = -(-problem.regions // 32) if problem.masked else 0
    return out, lse, qkv.new_empty((B, problem.regions, words), dtype=torch.int32)


def _taps_first(lepe_weight: Tensor | None) -> Tensor | None:
    """(C, 1, K, K) to (K², C): 25 values a channel, copied so that kernels read channels side by side."""
    return None if lepe_weight is None else lepe_weight.flatten(1).T.contiguous()


def _check(qkv: Tensor, routes: Tensor, problem: Problem) -> None:
    reason = unsupported(
        qkv,
        num_heads=problem.heads,
        region=problem.region,
        topk=problem.topk,
        lepe_kernel=problem.lepe,
        dim=problem.heads * problem.v,
    )
    if reason:
        raise ValueError(f"fused bi-level routing attention cannot run: {reason}")
    if tuple(routes.shape[:2]) != (problem.batch, problem.regions) or routes.dtype != torch.int64:
        raise ValueError(
            f"routes must be int64 ({problem.batch}, {problem.regions}, k), "
            f"got {routes.dtype} {tuple(routes.shape)}"
        )


@torch.library.custom_op("attnbench::bra_backward", mutates_args=())
def bra_backward(
    grad_out: Tensor,
    qkv: Tensor,
    routes: Tensor,
    lepe_weight: Tensor | None,
    lse: Tensor,
    bits: Tensor,
    num_heads: int,
    dim: int,
    region_h: int,
    region_w: int,
    scale: float,
    attend_padding: bool,
) -> Tensor:
    """Gradient of ``qkv``, from that of the output and what the forward pass returned."""
    from attnbench.mechanisms.bra import triton_backward_kv as backward_kv
    from attnbench.mechanisms.bra import triton_backward_q as backward_q
    from attnbench.mechanisms.bra import triton_lists as lists

    grad_out, qkv, routes = grad_out.contiguous(), qkv.contiguous(), routes.contiguous()
    taps = _taps_first(lepe_weight)
    problem = problem_of(qkv, routes, lepe_weight, num_heads, dim, region_h, region_w, scale, attend_padding)
    grad_qkv, delta, starts = torch.empty_like(qkv), torch.empty_like(lse), None
    index = seen_by = bits
    if not problem.masked:
        index = routes
        seen_by = routes.new_empty((problem.batch, problem.regions * problem.topk), dtype=torch.int32)
        starts = routes.new_empty((problem.batch, problem.regions + 1), dtype=torch.int32)
        lists.inverse_launch(routes, seen_by, starts).run()
    backward_q.backward_q_launch(qkv, index, grad_out, lse, delta, grad_qkv, problem).run()
    backward_kv.backward_kv_launch(qkv, seen_by, starts, taps, grad_out, lse, delta, grad_qkv, problem).run()
    return grad_qkv


@bra_backward.register_fake
def _(grad_out: Tensor, qkv: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(qkv, memory_format=torch.contiguous_format)


@torch.library.custom_op("attnbench::bra_backward_lepe", mutates_args=())
def bra_backward_lepe(grad_out: Tensor, qkv: Tensor, kernel: int) -> Tensor:
    """(K² + 1, C) float32: gradients of LePE's taps, and in the last row of its bias."""
    from attnbench.mechanisms.bra import triton_backward_lepe as backward_lepe

    grad_out, qkv = grad_out.contiguous(), qkv.contiguous()
    B, H, W, C = grad_out.shape
    chunks = backward_lepe.chunks_of(H, W)
    partial = grad_out.new_empty((B * chunks, kernel**2 + 1, C), dtype=torch.float32)
    backward_lepe.backward_lepe_launch(qkv, grad_out, partial, kernel).run()
    return partial.sum(0)


@bra_backward_lepe.register_fake
def _(grad_out: Tensor, qkv: Tensor, kernel: int) -> Tensor:
    return grad_out.new_empty((kernel**2 + 1, grad_out.shape[3]), dtype=torch.float32)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    qkv, routes, lepe_weight, lepe_bias, *ctx.options = inputs
    _, lse, bits = output
    ctx.mark_non_differentiable(lse, bits)
    ctx.bias_dtype = None if lepe_bias is None else lepe_bias.dtype
    ctx.save_for_backward(qkv, routes, lepe_weight, lse, bits)


def _gradients(ctx: Any, grad_out: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    qkv, routes, taps, lse, bits = ctx.saved_tensors
    grad_qkv = grad_taps = grad_bias = None
    if ctx.needs_input_grad[0]:
        grad_qkv = bra_backward(grad_out, qkv, routes, taps, lse, bits, *ctx.options)
    if ctx.needs_input_grad[2] or ctx.needs_input_grad[3]:
        sums = bra_backward_lepe(grad_out, qkv, taps.shape[-1])
        if ctx.needs_input_grad[2]:
            grad_taps = sums[:-1].T.reshape(taps.shape).to(taps.dtype)
        if ctx.needs_input_grad[3]:
            grad_bias = sums[-1].to(ctx.bias_dtype)
    return grad_qkv, None, grad_taps, grad_bias, *[None] * len(ctx.options)


bra_forward.register_autograd(_gradients, setup_context=_save)
differentiable_once(bra_backward)
differentiable_once(bra_backward_lepe)


@register_flop_formula(torch.ops.attnbench.bra_route)
def route_flops(qkv: Any, qk_dim: int, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """The scores; means are free, as pooling is."""
    batch, regions, _topk = out_shape
    return 2 * batch * regions**2 * qk_dim


@register_flop_formula(torch.ops.attnbench.bra_forward)
def forward_flops(
    qkv: Any, routes: Any, lepe_weight: Any, lepe_bias: Any, num_heads: int, dim: int,
    region_h: int, region_w: int, *_: Any, **__: Any,
) -> int:  # fmt: skip
    """Two a multiply-add of the definition, as counted on the eager twin: only routed pairs."""
    width = (qkv[3] - dim) // 2 + dim
    return 2 * (_pairs(routes, region_h, region_w) * width + _local(qkv, lepe_weight))


@register_flop_formula(torch.ops.attnbench.bra_backward)
def backward_flops(
    grad_out: Any, qkv: Any, routes: Any, lepe_weight: Any, lse: Any, bits: Any, num_heads: int, dim: int,
    region_h: int, region_w: int, *_: Any, **__: Any,
) -> int:  # fmt: skip
    """The four products of an explicit backward pass; logits formed anew are not counted."""
    width = (qkv[3] - dim) // 2 + dim
    return 2 * (2 * _pairs(routes, region_h, region_w) * width + _local(qkv, lepe_weight))


@register_flop_formula(torch.ops.attnbench.bra_backward_lepe)
def backward_lepe_flops(grad_out: Any, qkv: Any, kernel: int, *_: Any, **__: Any) -> int:
    """The weight's gradient."""
    return 2 * _local(qkv, (grad_out[3], 1, kernel, kernel))


def _pairs(routes: Any, region_h: int, region_w: int) -> int:
    """Pairs of query and key, all heads as one."""
    return prod(routes) * (region_h * region_w) ** 2


def _local(qkv: Any, lepe_weight: Any) -> int:
    """Multiply-adds of the depth-wise convolution."""
    return 0 if lepe_weight is None else prod(qkv[:3]) * prod(lepe_weight)
