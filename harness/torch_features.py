"""Which of torch's ways to transform a module work on a mechanism: tried, not believed.

docs/torch.md has the table; ``python -m attnbench.harness.torch_features`` prints it.
"""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from attnbench import markdown, registry
from attnbench.registry import Site
from attnbench.supervision import time_limit

LIMIT_S = 300.0
SITE = Site(dim=32, num_heads=2, height=8, width=8)
FIRST_SIZE, OTHER_SIZE = (8, 9), (12, 10)
"""Of the maps that what is made for any size is made with, and tried on; equal sides would be one symbol."""
_TOLERANCE = 1e-4


def trace(module: nn.Module, x: Tensor) -> None:
    """``torch.jit.trace``, run on another image of the same size."""
    with torch.no_grad():
        _equal(torch.jit.trace(module, x), module, torch.randn_like(x))


def export(module: nn.Module, x: Tensor) -> None:
    """``torch.export`` for one size of map."""
    _equal(torch.export.export(module, (x,)).module(), module, torch.randn_like(x))


def export_any_size(module: nn.Module, x: Tensor) -> None:
    """``torch.export`` with H and W left open, run at another size."""
    sizes = {1: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC}
    first = torch.randn(1, *FIRST_SIZE, x.shape[-1])
    program = torch.export.export(module, (first,), dynamic_shapes=(sizes,))
    _equal(program.module(), module, torch.randn(1, *OTHER_SIZE, x.shape[-1]))


def compile_any_size(module: nn.Module, x: Tensor) -> None:
    """``torch.compile(dynamic=True)`` as one graph, run at another size without compiling anew."""
    torch._dynamo.reset()
    compiled = torch.compile(module, dynamic=True, fullgraph=True, backend="eager")
    with torch.no_grad():
        compiled(torch.randn(1, *FIRST_SIZE, x.shape[-1]))
        with torch._dynamo.config.patch(error_on_recompile=True):
            _equal(compiled, module, torch.randn(1, *OTHER_SIZE, x.shape[-1]))


def per_sample_gradients(module: nn.Module, x: Tensor) -> None:
    """``torch.func``: the gradient of each image by itself, by ``vmap`` of ``grad``."""
    parameters = {name: p.detach() for name, p in module.named_parameters()}

    def loss(values: dict[str, Tensor], image: Tensor) -> Tensor:
        out: Tensor = torch.func.functional_call(module, values, (image[None],))
        return out.square().mean()

    images = torch.randn(2, *x.shape[1:])
    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, images)
    for i, image in enumerate(images):
        for name, gradient in torch.func.grad(loss)(parameters, image).items():
            torch.testing.assert_close(found[name][i], gradient, atol=_TOLERANCE, rtol=_TOLERANCE)


def onnx(module: nn.Module, x: Tensor) -> None:
    """``torch.onnx.export``, which needs the package onnxscript."""
    torch.onnx.export(module, (x,), dynamo=True)


FEATURES: dict[str, Callable[[nn.Module, Tensor], None]] = {
    "jit.trace": trace,
    "export": export,
    "export, any H × W": export_any_size,
    "compile, any H × W": compile_any_size,
    "per-sample gradients": per_sample_gradients,
    "ONNX": onnx,
}


def why_not(name: str, feature: str, impl: str = "auto") -> str:
    """Why a feature does not work on a mechanism, in a line; empty if it works.

    Args:
        name: of the mechanism.
        feature: one of :data:`FEATURES`.
        impl: of the mechanism.
    """
    torch.manual_seed(0)
    module = registry.get(name).build(SITE, impl=impl).eval()
    x = torch.randn(1, SITE.height, SITE.width, SITE.dim)
    try:
        with warnings.catch_warnings(), time_limit(LIMIT_S):
            warnings.simplefilter("ignore")
            FEATURES[feature](module, x)
    except Exception as error:  # torch raises anything
        return f"{type(error).__name__}: {error}".strip().splitlines()[0][:200]
    return ""


def _equal(one: Any, other: nn.Module, x: Tensor) -> None:
    torch.testing.assert_close(one(x), other(x), atol=_TOLERANCE, rtol=_TOLERANCE)


def lines() -> Iterator[str]:
    """The table of docs/torch.md, line by line, and below it the reasons."""
    yield markdown.head(("mechanism", *FEATURES), left=range(1 + len(FEATURES)))
    reasons: dict[str, str] = {}
    for name in registry.names():
        found = {feature: why_not(name, feature) for feature in FEATURES}
        reasons |= {f"{name}, {feature}": why for feature, why in found.items() if why}
        yield markdown.row((f"`{name}`", *("no" if why else "yes" for why in found.values())))
    yield from (f"{where}: {why}" for where, why in reasons.items())


if __name__ == "__main__":
    for line in lines():
        print(line, flush=True)
