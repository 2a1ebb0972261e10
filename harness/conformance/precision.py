"""Checks: half precision loses no more than it must."""

import torch
from torch import Tensor, nn

from attnbench import registry
from attnbench.errors import ImplementationError
from attnbench.harness.conformance.subject import ODD, Failure, Size, Subject, check, randomise, run
from attnbench.registry import Site

HALF_MULTIPLE = 4.0
"""Root mean square error allowed in half precision, in units of what eager full attention commits."""


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
