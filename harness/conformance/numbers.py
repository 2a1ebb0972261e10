"""Checks: gradients are right, nothing overflows, nothing is read that was not written."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from attnbench.harness.conformance.subject import (
    EQUAL,
    ODD,
    Failure,
    Subject,
    check,
    cotangent,
    difference,
    gradient_scale,
    gradients,
    noise,
)


@check("no_state_between_calls")
def gradcheck(subject: Subject) -> str:
    """The gradients of the input and of every parameter equal finite differences in float64.

    As ``torch.autograd.gradcheck`` in its fast mode: along a random direction, for a random cotangent.
    """
    step = 1e-6
    for site, impl, size in subject.cases((9, 8), impls=True):
        module, x = subject.build(site, impl), subject.image(site, size)
        values = {"input": x} | {f"gradient of {name}": p.detach() for name, p in module.named_parameters()}
        for seed, (name, analytical) in enumerate(gradients(module, x).items()):
            if name == "output" or analytical is None:
                continue
            direction, value = noise(tuple(values[name].shape), seed), values[name].clone()
            ahead, back = (_projected(module, values | {name: value + s * direction}) for s in (step, -step))
            numerical, expected = (ahead - back) / (2 * step), float((analytical * direction).sum())
            if not abs(numerical - expected) <= 1e-5 + 1e-4 * abs(expected):
                raise Failure(f"{name}: {expected:.6g} by autograd, {numerical:.6g} by finite differences")
    return "autograd against finite differences, random directions"


@check()
def parameters_used(subject: Subject) -> str:
    """Every parameter gets a finite gradient at each site, and at one of them a gradient that is not zero."""
    moved: dict[str, bool] = {}
    for site, impl, size in subject.cases():
        found = gradients(subject.build(site, impl), subject.image(site, size, batch=2))
        for name, gradient in found.items():
            if gradient is None or not gradient.isfinite().all():
                raise Failure(f"{name} is {'missing' if gradient is None else 'not finite'}")
            moved[name] = moved.get(name, False) or bool(gradient.any())
    still = [name for name, any_ in moved.items() if not any_ and name.startswith("gradient of ")]
    if still:
        raise Failure(f"{', '.join(still)} is zero everywhere")
    return f"{len(moved) - 2} parameters of different names"


@check("odd_sizes")
def finite_under_huge_logits(subject: Subject) -> str:
    """Inputs 300 times as large, for logits of 100 000, give finite outputs and gradients in float32."""
    for site, impl, size in subject.cases(ODD, impls=True):
        x = subject.image(site, size).mul(300).float()
        for name, value in gradients(subject.build(site, impl, torch.float32), x).items():
            if value is not None and not value.isfinite().all():
                raise Failure(f"{name} is not finite")
    return "inputs of standard deviation 300"


@check("determinism")
def uninitialised_memory(subject: Subject) -> str:
    """New memory filled with NaN reaches neither the parameters nor the output nor a gradient."""
    for site, impl, size in subject.cases(ODD, impls=True):
        x = subject.image(site, size)
        expected = gradients(subject.build(site, impl), x)
        with _memory_of_nan():
            raw = subject.spec.build(site, impl=impl, **subject.options)
            found = gradients(subject.build(site, impl), x)
        wild = [name for name, p in raw.named_parameters() if not p.isfinite().all()]
        if wild:
            raise Failure(f"{', '.join(wild)} is never initialised")
        floor = gradient_scale(expected)
        for name, value in found.items():
            other = expected[name]
            if value is not None and other is not None and difference(value, other, floor) > EQUAL:
                raise Failure(f"{name} depends on uninitialised memory")
    return "torch.empty filled with NaN, when built and when run"


def _projected(module: nn.Module, values: dict[str, Tensor]) -> float:
    """The output for given input and parameters, times the cotangent of :func:`gradients`, summed."""
    weights = {n.removeprefix("gradient of "): v for n, v in values.items() if n != "input"}
    with torch.no_grad():
        y = torch.func.functional_call(module, weights, (values["input"].clone(),))
    return float((y * cotangent(y)).sum())


@contextmanager
def _memory_of_nan() -> Iterator[None]:
    """Have torch fill new memory with NaN, which it does in deterministic mode."""
    deterministic: Any = torch.utils.deterministic
    fill = deterministic.fill_uninitialized_memory
    mode = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(mode, warn_only=warn_only)
        deterministic.fill_uninitialized_memory = fill
