"""Fused bi-level routing attention by device: C++ for CPU tensors, Triton for CUDA tensors.

Both take the arguments of the eager twin, :func:`eager.map_attention`, and neither falls back: what they
cannot take is an error with the reason.
"""

from typing import Any

from torch import Tensor

from attnbench.errors import ImplementationError
from attnbench.mechanisms.bra import cpu, eager, triton_operator

_KERNELS: dict[str, Any] = {"cpu": cpu, "cuda": triton_operator}


def unsupported(qkv: Tensor, **problem: Any) -> str:
    """Why ``qkv`` (its device, dtype and shape) cannot be taken; empty if it can.

    Args:
        qkv: (B, H, W, 2·qk_dim + C).
        problem: num_heads, region, topk, lepe_kernel and dim, as the kernels' own functions take them.
    """
    if qkv.device.type not in _KERNELS:
        return f"there is no kernel for tensors on {qkv.device.type!r}"
    reason: str = _KERNELS[qkv.device.type].unsupported(qkv, **problem)
    return reason


def attention(
    qkv: Tensor, routes: Tensor, lepe_weight: Tensor | None, lepe_bias: Tensor | None, **how: Any
) -> Tensor:
    """:func:`eager.map_attention` in one kernel; ``how`` are its keywords up to ``dim``.

    Raises:
        ImplementationError: the kernel cannot run on this device, dtype or shape.
    """
    reason = unsupported(
        qkv,
        num_heads=how["num_heads"],
        region=how["region"],
        topk=routes.shape[-1],
        lepe_kernel=0 if lepe_weight is None else lepe_weight.shape[-1],
        dim=how["dim"],
    )
    if reason:
        raise ImplementationError(f"implementation 'fused' cannot run here: {reason}; use impl='auto'")
    out: Tensor = _KERNELS[qkv.device.type].attention(qkv, routes, lepe_weight, lepe_bias, **how)
    return out


def route(qkv: Tensor, qk_dim: int, region: tuple[int, int], topk: int) -> Tensor:
    """:func:`eager.route`, in one pass on a CPU and in two kernels on a CUDA device.

    Where there is no kernel the twin routes: what follows it, :func:`attention`, then says why.
    """
    kind = qkv.device.type
    if kind == "cuda" and not triton_operator.unavailable(kind):
        return triton_operator.route(qkv, qk_dim, region, topk)
    return (cpu if kind == "cpu" else eager).route(qkv, qk_dim, region, topk)
