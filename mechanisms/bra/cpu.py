"""Bi-level routing attention fused on a CPU: one C++ pass over each head, forward and backward.

The same function as ``map_attention`` of ``eager.py``, with its arguments. Keys and values are never gathered
into memory: for each region the keys of its routes lie in cache while its queries attend to them, LePE is
added where the output is written, and the backward pass computes the weights anew, so that nothing is kept
from the forward pass but its inputs. Sums are in float, whatever the map's dtype.

The C++ (``cpu*.cpp``) is compiled on first use, see :mod:`attnbench.native`, and shares torch's threads.
Results do not depend on their number.
"""

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from attnbench import native
from attnbench.errors import ImplementationError
from attnbench.mechanisms.bra.once import differentiable_once

_POINTERS = (
    *("qkv", "routes", "lepe_weight", "lepe_bias", "out", "grad_out", "grad_qkv", "grad_weight", "grad_bias"),
    *("workspace", "parallel"),
)
_NUMBERS = (
    *(
        "batch",
        "height",
        "width",
        "qk_dim",
        "dim",
        "heads",
        "region_height",
        "region_width",
        "topk",
        "kernel",
    ),
    *("attend_padding", "bf16", "threads"),
)
_MAX_HEAD_DIM = 2048  # rows of 16 tokens in the C++ packing buffer


class _Problem(ctypes.Structure):
    """The struct of ``cpu.h``."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_int64) for name in _NUMBERS),
        ("scale", ctypes.c_float),
    )


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
    """Attention along routes plus LePE; arguments and result as of ``eager.map_attention``.

    Differentiable once, in ``qkv``, ``lepe_weight`` and ``lepe_bias``.

    Raises:
        ImplementationError: it cannot run here, see :func:`unsupported`.
        ValueError: the shapes do not fit each other, or a route is not the number of a region.
    """
    if dim is None:
        dim = qkv.shape[3] // 3 if lepe_weight is None else lepe_weight.shape[0]
    return _attention(
        qkv, routes, lepe_weight, lepe_bias, dim, num_heads, list(region), scale, attend_padding
    )


def unsupported(
    qkv: Tensor,
    *,
    num_heads: int,
    region: tuple[int, int],
    topk: int,
    lepe_kernel: int,
    dim: int | None = None,
) -> str:
    """Why :func:`attention` cannot take such a map; empty if it can.

    The first call compiles the C++; what came of it is remembered.
    """
    if qkv.device.type != "cpu":
        return f"the fused CPU kernel takes tensors of the CPU, not of {qkv.device.type}"
    if refusal := _refused(qkv.dtype):
        return refusal
    if qkv.shape[3] > _MAX_HEAD_DIM * num_heads:
        return f"the fused CPU kernel takes heads of at most {_MAX_HEAD_DIM // 3} channels"
    return _missing()


def _refused(dtype: torch.dtype) -> str:
    if dtype in (torch.float32, torch.bfloat16):
        return ""
    return f"the fused CPU kernel takes float32 and bfloat16, not {str(dtype).removeprefix('torch.')}"


@torch.compiler.assume_constant_result
def _missing() -> str:
    """Why the library is not there; empty if it is."""
    library = _library()
    return library if isinstance(library, str) else ""


@functools.cache
def _library() -> ctypes.CDLL | str:
    folder = Path(__file__).parent
    try:
        library = native.load("bra_cpu", [*folder.glob("cpu*.cpp"), *folder.glob("cpu*.h")])
    except ImplementationError as error:
        return str(error)
    for name in ("bra_forward", "bra_backward", "bra_route"):
        getattr(library, name).argtypes = [ctypes.POINTER(_Problem)]
        getattr(library, f"{name}_workspace").argtypes = [ctypes.POINTER(_Problem)]
        getattr(library, f"{name}_workspace").restype = ctypes.c_int64
    return library


def _run(name: str, tensors: dict[str, Tensor | None], numbers: dict[str, Any]) -> None:
    """Call the C++ function ``name``, with workspace and threads; tensors must be contiguous."""
    library = _library()
    if isinstance(library, str):
        raise ImplementationError(f"implementation 'fused' cannot run here: {library}; use impl='eager'")
    tasks = numbers["batch"] * numbers["heads"]
    problem = _Problem(
        parallel=native.thread_pool(), threads=min(torch.get_num_threads(), max(tasks, 1)), **numbers
    )
    for field, tensor in tensors.items():
        setattr(problem, field, None if tensor is None else tensor.data_ptr())
    floats = getattr(library, f"{name}_workspace")(problem)
    workspace = torch.empty(floats * problem.threads, dtype=torch.float32)
    problem.workspace = workspace.data_ptr()
    if getattr(library, name)(problem):
        raise ValueError("routes must be numbers of regions, row-major from 0")


def _numbers(
    qkv: Tensor,
    routes: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    dim: int,
    num_heads: int,
    region: Sequence[int],
    scale: float,
    attend_padding: bool,
) -> dict[str, Any]:
    """The scalar fields of the problem, once every size is known to fit: the C++ reads where they say.

    Raises:
        ValueError: they do not fit.
        ImplementationError: the C++ does not read this dtype.
    """
    B, H, W, channels = _map_shape(qkv, region)
    h, w = region
    R = -(-H // h) * -(-W // w)
    qk_dim = (channels - dim) // 2
    if (
        min(num_heads, dim, qk_dim) < 1
        or dim % num_heads
        or qk_dim % num_heads
        or 2 * qk_dim + dim != channels
    ):
        raise ValueError(
            f"{channels} channels of qkv do not divide into q, k, {dim} of v and {num_heads} heads"
        )
    if routes.dim() != 3 or routes.shape[:2] != (B, R) or routes.dtype != torch.int64:
        raise ValueError(
            f"routes must be int64 (B, R, k) = ({B}, {R}, k), got {routes.dtype} {tuple(routes.shape)}"
        )
    if routes.shape[2] < 1:
        raise ValueError("each region needs a route, got k = 0")
    kernel = _lepe_kernel(weight, bias, dim)
    for name, tensor in (("routes", routes), ("lepe_weight", weight), ("lepe_bias", bias)):
        if tensor is not None and tensor.device != qkv.device:
            raise ValueError(f"{name} must be on {qkv.device} as qkv is, got {tensor.device}")
    return {
        "batch": B, "height": H, "width": W, "qk_dim": qk_dim, "dim": dim, "heads": num_heads,
        "region_height": h, "region_width": w, "topk": routes.shape[2], "kernel": kernel,
        "attend_padding": attend_padding, "bf16": qkv.dtype == torch.bfloat16, "scale": scale,
    }  # fmt: skip


def _map_shape(qkv: Tensor, region: Sequence[int]) -> tuple[int, int, int, int]:
    """B, H, W and channels of a map with at least one token, cut into regions of at least one."""
    if refusal := _refused(qkv.dtype):
        raise ImplementationError(f"implementation 'fused' cannot run here: {refusal}; use impl='eager'")
    if qkv.dim() != 4 or min(qkv.shape) < 1:
        raise ValueError(f"qkv must be (B, H, W, channels), none of them 0, got {tuple(qkv.shape)}")
    if len(region) != 2 or min(region) < 1:
        raise ValueError(f"region must be two positive sizes, got {tuple(region)}")
    B, H, W, channels = qkv.shape
    return B, H, W, channels


def _lepe_kernel(weight: Tensor | None, bias: Tensor | None, dim: int) -> int:
    """K of LePE's weight (C, 1, K, K), with a bias (C,) if any; 0 without."""
    if weight is None:
        if bias is not None:
            raise ValueError("lepe_bias needs a lepe_weight")
        return 0
    if weight.dim() != 4 or weight.shape[:2] != (dim, 1) or weight.shape[2] != weight.shape[3]:
        raise ValueError(f"lepe_weight must be ({dim}, 1, K, K), got {tuple(weight.shape)}")
    if bias is not None and bias.shape != (dim,):
        raise ValueError(f"lepe_bias must be ({dim},), got {tuple(bias.shape)}")
    if weight.shape[2] % 2 == 0:
        raise ValueError(f"the kernel of LePE must be odd, got {weight.shape[2]}")
    return weight.shape[2]


def _in_float(*tensors: Tensor | None) -> list[Tensor | None]:
    """Parameters as the C++ reads them. Autocast leaves them in float; a model cast to bfloat16 does not."""
    return [None if t is None else t.detach().float().contiguous() for t in tensors]


@torch.library.custom_op("attnbench::bra_cpu", mutates_args=(), device_types="cpu")
def _attention(
    qkv: Tensor,
    routes: Tensor,
    lepe_weight: Tensor | None,
    lepe_bias: Tensor | None,
    dim: int,
    num_heads: int,
    region: Sequence[int],
    scale: float,
    attend_padding: bool,
) -> Tensor:
    numbers = _numbers(qkv, routes, lepe_weight, lepe_bias, dim, num_heads, region, scale, attend_padding)
    qkv, routes = qkv.contiguous(), routes.contiguous()
    weight, bias = _in_float(lepe_weight, lepe_bias)
    out = qkv.new_empty(*qkv.shape[:3], dim)
    tensors = {"qkv": qkv, "routes": routes, "lepe_weight": weight, "lepe_bias": bias, "out": out}
    _run("bra_forward", tensors, numbers)
    return out


@_attention.register_fake
def _(qkv: Tensor, routes: Tensor, lepe_weight: Any, lepe_bias: Any, dim: int, *_: Any) -> Tensor:
    return qkv.new_empty(*qkv.shape[:3], dim)


@torch.library.custom_op("attnbench::bra_cpu_backward", mutates_args=(), device_types="cpu")
def _attention_backward(
    grad: Tensor,
    qkv: Tensor,
    routes: Tensor,
    lepe_weight: Tensor | None,
    dim: int,
    num_heads: int,
    region: Sequence[int],
    scale: float,
    attend_padding: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of qkv, of LePE's weight and of its bias in float; without LePE the last two are empty."""
    numbers = _numbers(qkv, routes, lepe_weight, None, dim, num_heads, region, scale, attend_padding)
    if grad.shape != (*qkv.shape[:3], dim):
        raise ValueError(f"grad must be {(*qkv.shape[:3], dim)}, got {tuple(grad.shape)}")
    grad, qkv, routes = grad.to(qkv.dtype).contiguous(), qkv.contiguous(), routes.contiguous()
    (weight,) = _in_float(lepe_weight)
    grad_qkv = torch.empty_like(qkv)
    tensors = {"grad_out": grad, "qkv": qkv, "routes": routes, "lepe_weight": weight, "grad_qkv": grad_qkv}
    if weight is None:
        _run("bra_backward", tensors, numbers)
        return grad_qkv, qkv.new_empty(0, dtype=torch.float32), qkv.new_empty(0, dtype=torch.float32)
    grad_weight = weight.new_empty(qkv.shape[0], *weight.shape)  # a sum for each image
    grad_bias = weight.new_empty(qkv.shape[0], dim)
    _run("bra_backward", tensors | {"grad_weight": grad_weight, "grad_bias": grad_bias}, numbers)
    return grad_qkv, grad_weight.sum(0), grad_bias.sum(0)


@_attention_backward.register_fake
def _(
    grad: Tensor, qkv: Tensor, routes: Tensor, lepe_weight: Tensor | None, dim: int, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    if lepe_weight is None:
        empty = qkv.new_empty(0, dtype=torch.float32)
        return torch.empty_like(qkv), empty, empty.clone()
    weight = lepe_weight.new_empty(lepe_weight.shape, dtype=torch.float32)
    return torch.empty_like(qkv), weight, weight.new_empty(dim)


def route(qkv: Tensor, qk_dim: int, region: tuple[int, int], topk: int) -> Tensor:
    """Routes as of ``eager.route``, which takes the means in the map's dtype; here they are in float.

    No gradient passes. Of regions that score the same the first is taken.

    Raises:
        ImplementationError: it cannot run here, see :func:`unsupported`.
    """
    return _route(qkv.detach(), qk_dim, list(region), topk)


def _routes(qkv: Tensor, region: Sequence[int], topk: int) -> Tensor:
    """Memory for the routes of all regions."""
    regions = -(-qkv.shape[1] // region[0]) * -(-qkv.shape[2] // region[1])
    return qkv.new_empty(qkv.shape[0], regions, min(topk, regions), dtype=torch.int64)


@torch.library.custom_op("attnbench::bra_cpu_route", mutates_args=(), device_types="cpu")
def _route(qkv: Tensor, qk_dim: int, region: Sequence[int], topk: int) -> Tensor:
    channels = _map_shape(qkv, region)[3]
    if qk_dim < 1 or topk < 1 or 2 * qk_dim >= channels:
        raise ValueError(
            f"qk_dim and topk must be positive and leave values of {channels} channels, got {qk_dim}, {topk}"
        )
    routes = _routes(qkv, region, topk)
    numbers = _numbers(qkv, routes, None, None, channels - 2 * qk_dim, 1, region, 1.0, False)
    _run("bra_route", {"qkv": qkv.contiguous(), "out": routes}, numbers)
    return routes


@_route.register_fake
def _(qkv: Tensor, qk_dim: int, region: Sequence[int], topk: int) -> Tensor:
    return _routes(qkv, region, topk)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    qkv, routes, weight, bias, *ctx.rest = inputs
    ctx.save_for_backward(qkv, routes, weight)
    ctx.bias_dtype = None if bias is None else bias.dtype


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    qkv, routes, weight = ctx.saved_tensors
    grad_qkv, grad_weight, grad_bias = _attention_backward(grad, qkv, routes, weight, *ctx.rest)
    return (
        grad_qkv,
        None,
        None if weight is None else grad_weight.to(weight.dtype),
        None if ctx.bias_dtype is None else grad_bias.to(ctx.bias_dtype),
        *(None,) * len(ctx.rest),
    )


_attention.register_autograd(_backward, setup_context=_setup_context)
differentiable_once(_attention_backward)


def _flops(
    qkv: Sequence[int], routes: Sequence[int], weight: Sequence[int] | None, dim: int, region: Sequence[int]
) -> tuple[int, int, int]:
    """FLOPs of one product with q or k, of one with v, and of one convolution; two per multiply-add."""
    B, H, W, channels = qkv
    pairs = B * routes[1] * routes[2] * (region[0] * region[1]) ** 2
    return pairs * (channels - dim), 2 * pairs * dim, 2 * B * H * W * dim * (weight[2] ** 2 if weight else 0)


@register_flop_formula(torch.ops.attnbench.bra_cpu)
def _(
    qkv: Any, routes: Any, weight: Any, bias: Any, dim: int, heads: int, region: Any, *_: Any, **__: Any
) -> int:
    return sum(_flops(qkv, routes, weight, dim, region))


@register_flop_formula(torch.ops.attnbench.bra_cpu_route)
def _(qkv: Any, qk_dim: int, region: Any, topk: int, *_: Any, **__: Any) -> int:
    regions = -(-qkv[1] // region[0]) * -(-qkv[2] // region[1])
    return 2 * qkv[0] * regions**2 * qk_dim


@register_flop_formula(torch.ops.attnbench.bra_cpu_backward)
def _(
    grad: Any, qkv: Any, routes: Any, weight: Any, dim: int, heads: int, region: Any, *_: Any, **__: Any
) -> int:
    with_q, with_v, local = _flops(qkv, routes, weight, dim, region)
    return 3 * with_q + 2 * with_v + 2 * local  # the logits once more, dP, and the gradients of q, k and v
