"""Checks: every implementation computes the same, and is what it says it is."""

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from attnbench.conformance.subject import (
    EQUAL,
    ODD,
    Failure,
    Size,
    Skip,
    Subject,
    check,
    difference,
    gradient_scale,
    gradients,
    run,
)
from attnbench.errors import ImplementationError
from attnbench.registry import Site


@check("determinism", "smaller_than_window")
def implementations_equal(subject: Subject) -> str:
    """Every implementation gives the output and the gradients of eager.

    One that does not run on a CPU in float64 is run where it does, and may err twice as much as eager does.
    """
    others = [impl for impl in subject.impls if impl != "eager"]
    missing = "; ".join(f"{impl} not run: {reason}" for impl, reason in subject.unavailable.items())
    if not others and not subject.elsewhere:
        raise Skip(missing or "eager is the only implementation")
    refused: dict[str, str] = {}
    for site, _, size in subject.cases((14, 14), ODD, (3, 8)):
        expected = gradients(subject.build(site, "eager"), subject.image(site, size, batch=2))
        floor = gradient_scale(expected)
        for impl in others:
            try:
                found = gradients(subject.build(site, impl), subject.image(site, size, batch=2))
            except ImplementationError as error:
                refused[impl] = str(error)
                continue
            for name, value in expected.items():
                _compare(impl, name, found[name], value, floor)
    for impl, (device, dtype) in subject.elsewhere.items():
        others.append(f"{impl} (on {device} in {str(dtype).removeprefix('torch.')})")
        for site, _, size in subject.cases((14, 14), ODD):
            try:
                _compare_elsewhere(subject, site, size, impl)
            except ImplementationError as error:
                refused[impl] = str(error)
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
        for asked in [*(["auto"] if declared[0] in subject.impls else []), *subject.impls]:
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


def _compare(impl: str, name: str, found: Tensor | None, expected: Tensor | None, floor: float) -> None:
    if (found is None) != (expected is None):
        raise Failure(f"{impl}: {name} is missing in one of eager and {impl}")
    if found is not None and expected is not None:
        error = difference(found, expected, floor)
        if error > EQUAL:
            raise Failure(f"{impl}: {name} differs from eager by {error:.1e}")


def _compare_elsewhere(subject: Subject, site: Site, size: Size, impl: str) -> None:
    """Compare where an implementation runs: its error against float64 with that of eager there."""
    device, dtype = subject.elsewhere[impl]
    x = subject.image(site, size, batch=2, dtype=dtype)
    exact = gradients(subject.build(site, "eager", dtype).double(), x.double())
    own, eager = (
        gradients(subject.build(site, name, dtype).to(device), x.to(device)) for name in (impl, "eager")
    )
    floor = gradient_scale(exact)
    for name, value in exact.items():
        one, other = own[name], eager[name]
        if value is None or other is None:
            continue
        error = float("inf") if one is None else difference(one.cpu(), value, floor)
        allowed = 2 * difference(other.cpu(), value, floor) + torch.finfo(dtype).eps
        if not error <= allowed:
            raise Failure(f"{impl}: {name} errs by {error:.1e} in {dtype}; {allowed:.1e} is allowed")


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
