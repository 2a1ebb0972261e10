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
from attnbench.implementations import COMPILED, executed
from attnbench.registry import Site

WORKING_DTYPES = (torch.float32, torch.bfloat16)
"""What models run in; float64 is for the checks."""


@check("determinism", "smaller_than_window")
def implementations_equal(subject: Subject) -> str:
    """Every implementation gives the output and the gradients of eager.

    On a CPU in float64 up to the order of additions; in float32 and bfloat16, on each device that is here,
    with at most twice the error that eager commits against float64.
    """
    others = [impl for impl in subject.impls if impl != "eager"]
    missing = "; ".join(f"{impl} not run: {reason}" for impl, reason in subject.unavailable.items())
    working = [*others, *subject.elsewhere, *subject.asked]
    if not working:
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
    wrong = [reason for impl in working if (reason := _compare_working(subject, impl, refused))]
    if wrong:
        raise Failure("; ".join(wrong))
    text = f"{', '.join(working)} against eager: output, gradients of input and parameters"
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
        operators = {
            impl: _operators(subject.build(site, impl), subject.image(site, size)) for impl in subject.impls
        }
        for impl in subject.impls:
            said = getattr(subject.build(site, impl), "impl", None)
            if said != impl:
                raise Failure(f"built with impl={impl!r}, but the module's attribute impl is {said!r}")
            if same.get(impl):
                same[impl] = operators[impl] == operators["eager"]
        _check_auto(subject, site, size, operators)
    fallen = [impl for impl, alike in same.items() if alike]
    if fallen:
        raise Failure(f"{', '.join(fallen)} runs the very operators of eager at every site")
    return f"{', '.join(subject.impls)}: attribute impl and operators that ran"


def _check_auto(subject: Subject, site: Site, size: Size, operators: dict[str, list[str]]) -> None:
    """The implementation that ``auto`` names is a declared one, and it is what runs."""
    declared = subject.spec.facts.impls
    module, x = subject.build(site, "auto"), subject.image(site, size)
    named = executed(module, x.device, x.dtype, *size, training=False)
    choosing = hasattr(module, "implementation")
    if named not in declared or (not choosing and named != declared[0]):
        expected = "a declared one" if choosing else repr(declared[0])
        raise Failure(f"built with impl='auto', the implementation is {named!r}, expected {expected}")
    if named in operators and _operators(module, x) != operators[named]:
        raise Failure(f"impl='auto' names {named!r}, but other operators than its own ran")


def _compare_working(subject: Subject, impl: str, refused: dict[str, str]) -> str:
    """Compare in the working dtypes on each device, and note where it passed (errors by those allowed).

    ``compiled`` is compared at each site's own size only: compiling takes seconds.

    Returns:
        Where it did not pass and why; empty if it did. Other devices, dtypes and implementations go on.
    """
    wrong = []
    sizes: tuple[Size, ...] = () if impl == COMPILED else ((14, 14), ODD)
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        for dtype in WORKING_DTYPES:
            errors: dict[str, tuple[float, float]] = {}
            where = f"{impl} on {device} in {short(dtype)}"
            obstacle = subject.trial(impl, device, dtype)
            if obstacle is not None:
                refused[where] = (str(obstacle).splitlines() or [type(obstacle).__name__])[0]
                continue
            for site, _, size in subject.cases(*sizes):
                try:
                    _add_errors(subject, site, size, impl, device, dtype, errors)
                except ImplementationError as error:
                    refused[where] = str(error)
            shares = {name: own / _allowed(eager, dtype) for name, (own, eager) in errors.items()}
            beyond = [name for name, share in shares.items() if not share <= 1]
            for name in beyond[:1]:
                own, eager = errors[name]
                allowed = f"{_allowed(eager, dtype):.1e} is allowed, twice eager's"
                wrong.append(f"{where}: {name} errs by {own:.1e}; {allowed}")
            if shares and not beyond:
                compared = subject.details.setdefault("compared", {}).setdefault(impl, {})
                compared[f"{device} {short(dtype)}"] = {k: float(f"{v:.3g}") for k, v in shares.items()}
    return "; ".join(wrong)


def _compare(impl: str, name: str, found: Tensor | None, expected: Tensor | None, floor: float) -> None:
    if (found is None) != (expected is None):
        raise Failure(f"{impl}: {name} is missing in one of eager and {impl}")
    if found is not None and expected is not None:
        error = difference(found, expected, floor)
        if error > EQUAL:
            raise Failure(f"{impl}: {name} differs from eager by {error:.1e}")


def _add_errors(
    subject: Subject,
    site: Site,
    size: Size,
    impl: str,
    device: str,
    dtype: torch.dtype,
    errors: dict[str, tuple[float, float]],
) -> None:
    """Add a case: ``errors`` has an implementation's and eager's largest against float64, by tensor.

    Over all cases, since in one of a few small tensors the largest error is a matter of luck.
    """
    x = subject.image(site, size, batch=2, dtype=dtype)
    found = gradients(subject.build(site, impl, dtype).to(device), x.to(device))
    key = ("eager", site, size, device, dtype)
    if key not in subject.memory:
        exact = gradients(subject.build(site, "eager", dtype).double(), x.double())
        eager = gradients(subject.build(site, "eager", dtype).to(device), x.to(device))
        subject.memory[key] = exact, eager, gradient_scale(exact)
    exact, eager, floor = subject.memory[key]
    for name, value in exact.items():
        one, other = found[name], eager[name]
        if value is None or other is None:
            continue
        own = float("inf") if one is None else difference(one.cpu(), value, floor)
        before = errors.get(name, (0.0, 0.0))
        errors[name] = max(before[0], own), max(before[1], difference(other.cpu(), value, floor))


def _allowed(eager: float, dtype: torch.dtype) -> float:
    """Twice what eager errs, taken to err by a rounding more than in the few cases that were seen."""
    return 2 * (eager + torch.finfo(dtype).eps)


def short(dtype: torch.dtype) -> str:
    """``float32`` of ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


def _operators(module: nn.Module, x: Tensor) -> list[str]:
    """Names of the operators that run, with the shapes of what they return; without those that do no work."""
    ran: list[str] = []

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            if not str(func).startswith(("aten.empty", "aten.expand")):
                ran.append(f"{func} {tuple(out.shape) if isinstance(out, Tensor) else ''}")
            return out

    with torch.no_grad(), Record():
        run(module, x)
    return ran
