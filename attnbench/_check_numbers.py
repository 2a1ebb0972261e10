"""Checks: gradients are right, nothing overflows, and every implementation computes the same."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from attnbench import registry
from attnbench._check_subject import (
    EQUAL,
    ODD,
    Failure,
    Size,
    Skip,
    Subject,
    check,
    cotangent,
    difference,
    gradients,
    noise,
    randomise,
    run,
)
from attnbench.errors import ImplementationError
from attnbench.registry import Site

HALF_MULTIPLE = 4.0
"""Root mean square error allowed in half precision, in units of what eager full attention commits."""


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
        floor = _scale(expected)
        for name, value in found.items():
            other = expected[name]
            if value is not None and other is not None and difference(value, other, floor) > EQUAL:
                raise Failure(f"{name} depends on uninitialised memory")
    return "torch.empty filled with NaN, when built and when run"


@check("no_state_between_calls")
def half_precision(subject: Subject) -> str:
    """The error in bfloat16 and float16 is at most 4 times that of eager full attention at the same site.

    Where a mechanism chooses (declared ``image`` or ``query``), a choice between near equals flips with the
    last digit. There the error may be twice what noise of 4 rounding units on the input does in float64.
    """
    worst = {torch.bfloat16: 0.0, torch.float16: 0.0}
    flips = False
    for site, impl, size in subject.cases(ODD, impls=True):
        for dtype in worst:
            x = subject.image(site, size, batch=2, dtype=dtype)
            try:
                own = _error(subject.build(site, impl), x)
            except ImplementationError:
                continue
            full = _full_attention_error(subject, site, size, dtype)
            worst[dtype] = max(worst[dtype], own / full)
            flips |= own > HALF_MULTIPLE * full
            allowed = _allowed(subject, site, size, dtype, x)
            if not own <= allowed:
                raise Failure(f"the error in {_short(dtype)} is {own:.1e}; {allowed:.1e} is allowed")
    shown = ", ".join(f"{ratio:.2f} × in {_short(dtype)}" for dtype, ratio in worst.items())
    return f"{shown} the error of full attention{', where choices flip' if flips else ''}"


@check("determinism")
def autocast(subject: Subject) -> str:
    """Under torch.autocast to bfloat16 forward and backward run, with the error allowed in bfloat16."""
    worst = 0.0
    for site, impl, size in subject.cases(ODD, impls=True):
        x = subject.image(site, size, batch=2, dtype=torch.float32)
        exact = run(subject.build(site, "eager", torch.float32).double(), x.double())
        module, image = subject.build(site, impl, torch.float32), x.clone().requires_grad_()
        try:
            with torch.autocast("cpu", torch.bfloat16):
                y = run(module, image)
        except ImplementationError:
            continue
        (gradient,) = torch.autograd.grad(y.float().sum(), image)
        if not gradient.isfinite().all():
            raise Failure("the input's gradient is not finite")
        allowed = _allowed(subject, site, size, torch.bfloat16, x)
        own = _relative(y, exact)
        worst = max(worst, own / allowed)
        if not own <= allowed:
            raise Failure(f"the error is {own:.1e}; {allowed:.1e} is allowed")
    return f"error at most {worst:.0%} of what is allowed"


@check("determinism", "smaller_than_window")
def implementations_equal(subject: Subject) -> str:
    """Every implementation gives the output and the gradients of eager."""
    others = [impl for impl in subject.impls if impl != "eager"]
    missing = "; ".join(f"{impl} not run: {reason}" for impl, reason in subject.unavailable.items())
    if not others:
        raise Skip(missing or "eager is the only implementation")
    refused: dict[str, str] = {}
    for site, _, size in subject.cases((14, 14), ODD, (3, 8)):
        expected = gradients(subject.build(site, "eager"), subject.image(site, size, batch=2))
        floor = _scale(expected)
        for impl in others:
            try:
                found = gradients(subject.build(site, impl), subject.image(site, size, batch=2))
            except ImplementationError as error:
                refused[impl] = str(error)
                continue
            for name, value in expected.items():
                _compare(impl, name, found[name], value, floor)
    text = f"{', '.join(others)} against eager: output, gradients of input and parameters"
    refusals = "".join(f"; {impl} refuses some: {reason}" for impl, reason in refused.items())
    return text + refusals + (f"; {missing}" if missing else "")


@check()
def executed_implementation(subject: Subject) -> str:
    """A module runs the implementation it was built with: it says so, and its operators are its own."""
    declared = subject.spec.facts.impls
    if len(declared) == 1:
        raise Skip("eager is the only implementation")
    same = {impl: True for impl in subject.impls if impl != "eager"}
    for site, _, size in subject.cases((14, 14), (28, 28)):
        eager = _operators(subject.build(site, "eager"), subject.image(site, size))
        for asked in ["auto", *subject.impls]:
            module = subject.build(site, asked)
            expected = declared[0] if asked == "auto" else asked
            said = getattr(module, "impl", None)
            if said != expected:
                raise Failure(f"built with impl={asked!r}, but the module's attribute impl is {said!r}")
            if same.get(asked):
                same[asked] = _operators(module, subject.image(site, size)) == eager
    fallen = [impl for impl, alike in same.items() if alike]
    if fallen:
        raise Failure(f"{', '.join(fallen)} runs the very operators of eager at every site")
    return f"{', '.join(subject.impls)}: attribute impl and operators that ran"


def _projected(module: nn.Module, values: dict[str, Tensor]) -> float:
    """The output for given input and parameters, times the cotangent of :func:`gradients`, summed."""
    weights = {n.removeprefix("gradient of "): v for n, v in values.items() if n != "input"}
    with torch.no_grad():
        y = torch.func.functional_call(module, weights, (values["input"].clone(),))
    return float((y * cotangent(y)).sum())


def _compare(impl: str, name: str, found: Tensor | None, expected: Tensor | None, floor: float) -> None:
    if (found is None) != (expected is None):
        raise Failure(f"{impl}: {name} is missing in one of eager and {impl}")
    if found is not None and expected is not None:
        error = difference(found, expected, floor)
        if error > EQUAL:
            raise Failure(f"{impl}: {name} differs from eager by {error:.1e}")


def _scale(found: dict[str, Tensor | None]) -> float:
    """A thousandth of the largest gradient: below it, rounding is all there is."""
    return 1e-3 * max(float(v.abs().max()) for n, v in found.items() if v is not None and n != "output")


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


def _allowed(subject: Subject, site: Site, size: Size, dtype: torch.dtype, x: Tensor) -> float:
    """The error that :func:`half_precision` allows on an image x."""
    allowed = HALF_MULTIPLE * _full_attention_error(subject, site, size, dtype)
    if subject.spec.facts.pattern in ("image", "query"):
        allowed = max(allowed, 2 * _sensitivity(subject.build(site, "eager"), x, dtype))
    return allowed


def _relative(found: Tensor, exact: Tensor) -> float:
    """Root mean square error, relative to the root mean square."""
    return float((found.double() - exact).square().mean().sqrt() / exact.square().mean().sqrt())


def _error(module: nn.Module, x: Tensor) -> float:
    """Root mean square of the error that x's dtype brings, relative to the output of float64."""
    with torch.no_grad():
        module = module.to(x.dtype)
        found = run(module, x)
        exact = run(module.double(), x.double())  # the weights stay rounded
    if found.dtype != x.dtype:
        raise Failure(f"the output of a {_short(x.dtype)} input is {_short(found.dtype)}")
    return _relative(found, exact)


def _sensitivity(module: nn.Module, x: Tensor, dtype: torch.dtype) -> float:
    """Largest relative change of the float64 output in 8 draws of noise of 4 rounding units of a dtype."""
    unit, exact = torch.finfo(dtype).eps / 2, x.double()
    with torch.no_grad():
        y = run(module, exact)
        draws = (2 * torch.rand(exact.shape, dtype=exact.dtype) - 1 for _ in range(8))
        changes = [(run(module, exact * (1 + 4 * unit * draw)) - y).square().mean() for draw in draws]
    return float((torch.stack(changes).max() / y.square().mean()).sqrt())


def _full_attention_error(subject: Subject, site: Site, size: Size, dtype: torch.dtype) -> float:
    key = ("full attention error", site.num_heads, size, dtype)
    if key not in subject.memory:
        full = registry.get("full").build(site, impl="eager")
        randomise(full)
        subject.memory[key] = _error(full.eval(), subject.image(site, size, batch=2, dtype=dtype))
    return subject.memory[key]


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _operators(module: nn.Module, x: Tensor) -> list[str]:
    """Names of the operators that run, with the shapes of what they return."""
    ran: list[str] = []

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            ran.append(f"{func} {tuple(out.shape) if isinstance(out, Tensor) else ''}")
            return out

    with torch.no_grad(), Record():
        run(module, x)
    return ran
