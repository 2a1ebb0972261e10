"""Kernels that are differentiable once: what they say when somebody asks for the gradient of a gradient."""

from typing import Any, NoReturn

from attnbench.errors import ImplementationError


def differentiable_once(backward_operator: Any) -> None:
    """Let the operator of a backward pass say, when it is differentiated, which implementation can be."""
    backward_operator.register_autograd(_refuse)


def _refuse(ctx: Any, *gradients: Any) -> NoReturn:
    raise ImplementationError(
        "implementation 'fused' has no second derivatives (double backward); use impl='eager'"
    )
