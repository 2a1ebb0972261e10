"""Where a function with gradients of its own may stand for the operators that torch knows."""

import torch
from torch import Tensor
from torch.autograd import forward_ad


def by_hand(*given: Tensor) -> bool:
    """On a CPU, and where nobody looks into the operators.

    torch.compile, a tracer, torch.func and forward mode get the formula, since they make their own of it, and
    so does a mode that overrides functions: it may hold softmax fixed.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined]
        return False
    if any(t.device.type != "cpu" for t in given):
        return False
    if forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active():
        return False
    return not torch._C._len_torch_function_stack()
