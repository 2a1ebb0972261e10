"""Checks: every implementation computes the same, and is what it says it is."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from attnbench.errors import ImplementationError
from attnbench.harness.conformance.subject import (
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
from attnbench.implementations import GENERATED, executed
from attnbench.registry import Site

WORKING_DTYPES = (torch.float32, torch.bfloat16)
"""What models run in; float64 is for the checks."""


@check("determinism", "smaller_than_window")
def implementations_equal(subject: Subject) -> str:
    """Every implementation gives the output and the gradients of eager.

    On a CPU in float64 up to the order of additions; in float32 and bfloat16, on each device that is here,
    with at most twice the error that eager commits against float64. One that errs more there is not certified
    there, so that no table shows its speed, and the check fails if ``auto`` would take it.
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
    wrong = [found for impl in working for found in _compare_working(subject, impl, refused)]
    if failed := [reason for reason, fatal in wrong if fatal]:
        raise Failure("; ".join(failed))
    text = f"{', '.join(working)} against eager: output, gradients of input and parameters"
    refusals = "".join(f"; {impl} refuses some: {reason}" for impl, reason in refused.items())
    refusals += "".join(f"; not certified: {reason}" for reason, _ in wrong)
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


def _compare_working(subject: Subject, impl: str, refused: dict[str, str]) -> list[tuple[str, bool]]:
    """Compare in the working dtypes on each device, and note where it passed (errors by those allowed).

    What is generated at first use is compared at each site's own size only: that takes seconds.

    Returns:
        Where it did not pass and why, and whether that is a failure. Other devices and dtypes go on.
    """
    wrong = []
    sizes: tuple[Size, ...] = () if impl in GENERATED else ((14, 14), ODD)
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        for dtype in WORKING_DTYPES:
            errors: dict[str, _Errors] = {}
            alone = False
            where = f"{impl} on {device} in {short(dtype)}"
            obstacle = subject.trial(impl, device, dtype)
            if obstacle is not None:
                refused[where] = (str(obstacle).splitlines() or [type(obstacle).__name__])[0]
                continue
            for site, _, size in subject.cases(*sizes):
                try:
                    found = _found(subject, site, size, impl, device, dtype)
                except ImplementationError as error:
                    refused[where] = str(error)
                    continue
                alone |= len(found) == 1
                _add_errors(subject, site, size, found, device, dtype, errors)
            shares = {name: found.own() / found.allowed(dtype) for name, found in errors.items()}
            beyond = [name for name, share in shares.items() if not share <= 1]
            for name in beyond[:1]:
                own, allowed = errors[name].own(), errors[name].allowed(dtype)
                reason = f"{where}: {name} errs by {own:.1e}; {allowed:.1e} is allowed, twice eager's"
                wrong.append((reason, _auto_takes(subject, impl, device, dtype)))
            if shares and not beyond:
                compared = subject.details.setdefault("compared", {}).setdefault(impl, {})
                place = f"{device} {short(dtype)}{' infer' if alone else ''}"
                compared[place] = {k: float(f"{v:.3g}") for k, v in shares.items()}
    return wrong


def _auto_takes(subject: Subject, impl: str, device: str, dtype: torch.dtype) -> bool:
    """Whether ``auto`` runs an implementation at some site, in training or in inference."""
    where = torch.device(device)
    return any(
        executed(subject.build(site, "auto"), where, dtype, *size, training=training) == impl
        for site, _, size in subject.cases((14, 14), ODD)
        for training in (False, True)
    )


def _compare(impl: str, name: str, found: Tensor | None, expected: Tensor | None, floor: float) -> None:
    if (found is None) != (expected is None):
        raise Failure(f"{impl}: {name} is missing in one of eager and {impl}")
    if found is not None and expected is not None:
        error = difference(found, expected, floor)
        if error > EQUAL:
            raise Failure(f"{impl}: {name} differs from eager by {error:.1e}")


def _found(
    subject: Subject, site: Site, size: Size, impl: str, device: str, dtype: torch.dtype
) -> dict[str, Tensor | None]:
    """Output and gradients of an implementation; the output alone where it has no gradients there.

    Raises:
        ImplementationError: it does not run at all.
    """
    x = subject.image(site, size, batch=2, dtype=dtype).to(device)
    module = subject.build(site, impl, dtype).to(device)
    try:
        return gradients(module, x)
    except ImplementationError:
        with torch.no_grad():
            return {"output": run(module, x)}


def _add_errors(
    subject: Subject,
    site: Site,
    size: Size,
    found: dict[str, Tensor | None],
    device: str,
    dtype: torch.dtype,
    errors: dict[str, "_Errors"],
) -> None:
    """Add the errors of a case, by tensor, of those that were found."""
    x = subject.image(site, size, batch=2, dtype=dtype)
    key = ("eager", site, size, device, dtype)
    if key not in subject.memory:
        exact = gradients(subject.build(site, "eager", dtype).double(), x.double())
        eager = gradients(subject.build(site, "eager", dtype).to(device), x.to(device))
        subject.memory[key] = exact, eager, gradient_scale(exact)
    exact, eager, floor = subject.memory[key]
    for name, value in exact.items():
        if name in found and value is not None and eager[name] is not None:
            errors.setdefault(name, _Errors()).add(found[name], eager[name], value, floor)


@dataclass
class _Errors:
    """Squared errors of one tensor against float64, over all cases: an implementation's, and eager's.

    The norm over many values is compared, since the largest error of a few is a matter of luck. A gradient
    that is zero but for rounding (of a bias that softmax cancels) has no scale: it has that of all gradients.
    """

    squares: list[float] = field(default_factory=lambda: [0.0, 0.0])
    scale: float = 0.0

    def add(self, found: Tensor | None, eager: Tensor, exact: Tensor, floor: float) -> None:
        """Add a case; ``floor`` as of gradient_scale. A gradient that is missing is infinitely wrong."""
        real = float(exact.abs().max()) > 1e-3 * floor
        self.scale += float(exact.square().sum()) if real else exact.numel() * (1e3 * floor) ** 2
        for place, one in enumerate((found, eager)):
            error = torch.inf if one is None else float((one.cpu().double() - exact).square().sum())
            self.squares[place] += error

    def own(self) -> float:
        """Relative error of the implementation."""
        return (self.squares[0] / max(self.scale, 1e-300)) ** 0.5

    def allowed(self, dtype: torch.dtype) -> float:
        """Twice what eager errs, or twice one rounding where eager errs by less."""
        return 2 * max((self.squares[1] / max(self.scale, 1e-300)) ** 0.5, torch.finfo(dtype).eps)


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
