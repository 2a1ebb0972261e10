"""Which implementation of a mechanism runs: the choice that ``auto`` leaves open, and one open to all.

A mechanism declares implementations of its own (``eager``, ``sdpa``, ``fused``, ...). Besides, any can run
``compiled``: torch.compile of the eager module, as one graph or not at all. ``auto`` is resolved in two ways:
a module with a method

    implementation(device, dtype, height, width, training) -> str

is asked at each call, by :func:`resolve`; for one without it the registry takes the first declared. The
method is pure, so that a record can say what ran (:func:`executed`) without watching the run.
"""

from typing import TYPE_CHECKING, Any

from attnbench.errors import ImplementationError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

AUTO, COMPILED = "auto", "compiled"
GENERATED = (COMPILED, "flex")
"""Generated at first use, anew for each shape, which takes seconds: checks are sparing with them."""


def resolve(module: Any, x: "Tensor", height: int, width: int) -> str:
    """What a module runs on ``x``: its attribute ``impl``, or the choice of its method where that is auto.

    Args:
        module: has ``impl``, and ``implementation`` if that may be ``auto``.
        x: what attention works on, e.g. the projected map: under autocast its dtype is not the input's.
        height, width: tokens of the map.
    """
    if module.impl != AUTO:
        return str(module.impl)
    import torch

    training = torch.is_grad_enabled() and x.requires_grad
    return str(module.implementation(x.device, x.dtype, height, width, training))


def executed(
    module: "nn.Module", device: "torch.device", dtype: "torch.dtype", height: int, width: int, training: bool
) -> str:
    """The implementation that a module runs under these conditions.

    Args:
        module: an attention module.
        device, dtype: of what attention works on; under autocast that is autocast's dtype.
        height, width: tokens of the map.
        training: whether gradients are taken.
    """
    if getattr(module, "_compiled_call_impl", None) is not None:
        return COMPILED
    impl = str(getattr(module, "impl", "eager"))
    if impl != AUTO:
        return impl
    choose: Any = module.implementation
    return str(choose(device, dtype, height, width, training))


def compile_module(module: "nn.Module") -> "nn.Module":
    """Let an eager module run as one compiled graph; its parameters and their names stay.

    A graph that would break raises at the first call: a part that fell back to eager would not be named.

    Raises:
        ImplementationError: torch.compile does not work here.
    """
    from attnbench.backends import require_compiler

    if getattr(module, "impl", "eager") != "eager":
        raise ImplementationError(f"only eager modules are compiled, got impl={module.impl!r}")
    require_compiler()
    module.compile(fullgraph=True)
    return module
