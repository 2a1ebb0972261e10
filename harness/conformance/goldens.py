"""Prove a port: rebuild the cases of a golden folder, compare output, every gradient and what else is kept.

A golden folder holds MANIFEST.json and one safetensors file per case: seeded weights, an input, a
cotangent, and what the official module returned for them (docs/goldens.md). The manifest's ``mechanism``
names the official module; the registered class that lists it in ``goldens`` rebuilds it in ``from_official``,
once for each of its implementations, so that not the readable one alone is proved.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attnbench import registry
from attnbench.errors import AttnbenchError, ImplementationError
from attnbench.harness.conformance.golden_files import TOLERANCE, Damaged, Kwargs, load_cases, read, strays

__all__ = ["TOLERANCE", "Comparison", "Outcome", "check_case", "check_folder", "load_cases", "rename"]


@dataclass
class Comparison:
    """One implementation against one case: the relative error of each tensor.

    Args:
        impl: what ran.
        device, dtype: where and in what it ran, e.g. ``cpu`` and ``float32``.
        tolerance: largest error allowed.
        gradients: whether gradients were compared, too; some implementations have none.
        errors: by tensor.
    """

    impl: str
    device: str
    dtype: str
    tolerance: float
    gradients: bool
    errors: dict[str, float] = field(default_factory=dict)

    @property
    def equal(self) -> bool:
        """Every error lies within the tolerance."""
        return bool(self.errors) and all(error <= self.tolerance for error in self.errors.values())

    def __str__(self) -> str:
        worst = max(self.errors, key=lambda name: self.errors[name])
        where = "" if self.device == "cpu" else f" {self.device}"
        where += "" if self.dtype == "float64" else f" {self.dtype}"
        what = "" if self.gradients else " without gradients"
        if self.equal:
            return f"{self.impl}{where}{what} {self.errors[worst]:.1e}"
        allowed = f"{self.errors[worst]:.1e} where {self.tolerance:.0e} is allowed"
        return f"{self.impl}{where}{what} DIFFERENT in {worst} by {allowed}"


@dataclass
class Outcome:
    """One case: what was compared, what cannot run here, or why nothing was compared."""

    case: str
    mechanism: str
    comparisons: list[Comparison] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    """Implementations that cannot run this case here, each with its own reason."""
    reason: str = ""

    @property
    def equal(self) -> bool:
        """The case is whole, eager equals it, and so does every other implementation that runs here."""
        compared = self.comparisons
        return not self.reason and bool(compared) and all(comparison.equal for comparison in compared)

    @property
    def errors(self) -> dict[str, float]:
        """Of the first comparison, by tensor."""
        return self.comparisons[0].errors if self.comparisons else {}

    def __str__(self) -> str:
        if self.reason:
            return f"{self.case}: NOT COMPARED: {self.reason}"
        verdict = "equal" if self.equal else "DIFFERENT"
        compared = ", ".join(map(str, self.comparisons))
        absent = f"; not here: {', '.join(self.absent)}" if self.absent else ""
        return f"{self.case}: {verdict} in {len(self.errors)} tensors ({compared}{absent})"


def check_folder(folder: Path, only: str | None = None) -> Iterator[Outcome]:
    """Compare every case of a golden folder, or those of one registered mechanism.

    A file that the manifest does not name is an outcome of its own, which is not equal.
    """
    owners = {golden: name for name in registry.names() for golden in registry.get(name).facts.goldens}
    cases = load_cases(folder)
    for case in cases:
        owner = owners.get(str(case.get("mechanism")))
        if only is None or owner == only:
            yield check_case(folder, case, owner)
    for defect in strays(folder, cases) if only is None else ():
        yield Outcome(folder.name, "", reason=defect)


def check_case(folder: Path, case: dict[str, Any], owner: str | None) -> Outcome:
    """Compare one case with every implementation of the registered mechanism ``owner``."""
    outcome = Outcome(Path(str(case.get("file"))).stem, str(case.get("mechanism")))
    try:
        tensors = read(folder, case)
        if owner is None:
            raise Damaged(f"no registered mechanism lists {case['mechanism']!r} in its goldens")
        for impl in dict.fromkeys(("eager", *registry.get(owner).facts.impls)):
            _compare_impl(owner, impl, case, tensors, outcome)
    except Exception as error:  # a port under proof may fail in any way; the others still run
        kind = "" if isinstance(error, Damaged) else f"{type(error).__name__}: "
        outcome.reason = f"{kind}{' '.join(str(error).split())[:500]}"
    return outcome


def build_official(
    owner: str, case: dict[str, Any], impl: str = "eager"
) -> tuple[nn.Module, dict[str, str]] | None:
    """The module of a case, and the map from official to own parameter names.

    None where ``from_official`` cannot choose the implementation.

    Raises:
        AttnbenchError: there is no ``from_official``, or it left an official option unread.
    """
    builder: Any = registry.get(owner).load()
    if not hasattr(builder, "from_official"):
        raise AttnbenchError(f"{owner} lists goldens but has no from_official method")
    chooses = "impl" in signature(builder.from_official).parameters
    if impl != "eager" and not chooses:
        return None
    kwargs = Kwargs(case["kwargs"])
    module, prefixes = builder.from_official(
        {**case, "kwargs": kwargs}, **({"impl": impl} if chooses else {})
    )
    if unread := kwargs.unread():
        raise Damaged(f"from_official of {owner} does not know the official option {', '.join(unread)}")
    return module.eval(), prefixes


def rename(name: str, prefixes: dict[str, str]) -> str:
    """Own name of an official parameter: the longest matching prefix is replaced."""
    match = max((p for p in prefixes if name.startswith(p)), key=len, default="")
    return prefixes.get(match, "") + name[len(match) :]


def _compare_impl(
    owner: str, impl: str, case: dict[str, Any], tensors: dict[str, Tensor], outcome: Outcome
) -> None:
    """Compare an implementation on each device, in the widest dtype it takes, with gradients if it can."""
    exact = case["compute_dtype"]
    kinds = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    refusals: dict[str, str] = {}
    for device in kinds:
        for dtype, gradients in _ways(impl, exact, case["has_gradients"]):
            try:
                found = _compare(owner, impl, case, tensors, device, dtype, gradients)
            except ImplementationError as error:
                refusals[device] = (str(error).splitlines() or ["no reason given"])[0]
                continue
            refusals.pop(device, None)
            same = [(c.impl, c.device) for c in outcome.comparisons]
            if found is not None and (found.impl, found.device) not in same:
                outcome.comparisons.append(found)
            break
    if refusals.keys() == set(kinds):
        outcome.absent[impl] = refusals[kinds[-1]]


def _ways(impl: str, exact: str, gradients: bool) -> list[tuple[str, bool]]:
    """Dtypes, and whether with gradients, to try an implementation in; eager as the case was made."""
    if impl == "eager":
        return [(exact, gradients)]
    return list(dict.fromkeys((dtype, g) for g in (gradients, False) for dtype in (exact, "float32")))


def _compare(
    owner: str,
    impl: str,
    case: dict[str, Any],
    tensors: dict[str, Tensor],
    device: str,
    precision: str,
    gradients: bool,
) -> Comparison | None:
    """Raises ImplementationError where the implementation cannot run so; None where it cannot be chosen."""
    dtype = getattr(torch, precision)
    with _default_dtype(dtype), torch.set_grad_enabled(gradients):
        built = build_official(owner, case, impl)
        if built is None:
            return None
        module, prefixes = built
        module = module.to(device, dtype)
        ran = str(getattr(module, "impl", impl))  # a form may have one implementation alone
        used = _load(module, prefixes, tensors)
        x = tensors["input"].to(device, dtype).requires_grad_(gradients)
        out = module(x)
        found: dict[str, Tensor | None] = {"output": out, **_auxiliary(module, x, tensors)}
        if gradients:
            (out * tensors["cotangent"].to(device, dtype)).sum().backward()
            found |= {"grad.input": x.grad, **{f"grad.{key}": p.grad for key, p in used.items()}}
    for name in [name for name in found if name not in tensors]:
        value = found.pop(name)  # listed in params_without_grad: so it must be
        if value is not None and value.any():
            raise AttnbenchError(f"{name} is not zero, and the official parameter has no gradient")
    graded = [tensors[name] for name in tensors if gradients and name.startswith("grad.")]
    largest = max((float(value.abs().max()) for value in graded), default=0.0)
    # What is zero but for rounding (the gradient of a bias that softmax cancels) has no scale of its own.
    floor = largest * (1e-3 if dtype == torch.float64 else 1e-2)
    errors = {}
    for name, value in found.items():
        fits = value is None or name.startswith("grad.param.") or value.shape == tensors[name].shape
        errors[name] = error(
            value if fits else None, tensors[name], floor if name.startswith("grad.") else 0.0
        )
    return Comparison(ran, device, precision, TOLERANCE[precision], gradients, errors)


def _load(module: nn.Module, prefixes: dict[str, str], tensors: dict[str, Tensor]) -> dict[str, nn.Parameter]:
    """Give the module its official parameters and buffers; the parameters by their names in the file.

    Raises:
        AttnbenchError: an official name has no counterpart, or a parameter or buffer got no value.
    """
    parameters = dict(module.named_parameters())
    state = module.state_dict(keep_vars=True)
    buffers = {
        k: v for k, v in state.items() if k not in parameters and not k.endswith("num_batches_tracked")
    }
    used: dict[str, nn.Parameter] = {}
    filled: set[int] = set()
    for kind, own in (("param", parameters), ("buffer", buffers)):
        for key in [key for key in tensors if key.startswith(f"{kind}.")]:
            name = rename(key.removeprefix(f"{kind}."), prefixes)
            if name not in own:
                raise AttnbenchError(f"official {key} maps to {name}, which the module lacks")
            value = tensors[key]
            if value.numel() != own[name].numel() or value.shape[0] != own[name].shape[0]:
                raise AttnbenchError(
                    f"official {key} has the shape {list(value.shape)}, {name} {list(own[name].shape)}"
                )
            with torch.no_grad():
                own[name].copy_(value.reshape(own[name].shape))
            filled.add(id(own[name]))
            if kind == "param":
                used[key] = parameters[name]
    if unset := [name for name, value in {**parameters, **buffers}.items() if id(value) not in filled]:
        raise AttnbenchError(f"not in the golden: {', '.join(unset)}")
    return used


def _auxiliary(module: nn.Module, x: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor | None]:
    """Intermediate results that the file holds, as the module's method ``auxiliary`` has them.

    Raises:
        Damaged: it does not have one.
    """
    wanted = [name.removeprefix("aux.") for name in tensors if name.startswith("aux.")]
    if not wanted:
        return {}
    has: Any = getattr(module, "auxiliary", lambda x: {})
    with torch.no_grad():
        known: dict[str, Tensor] = has(x.detach())
    if lost := [name for name in wanted if name not in known]:
        raise Damaged(f"aux.{', aux.'.join(lost)}: nothing compares it")
    return {f"aux.{name}": known[name] for name in wanted}


def error(own: Tensor | None, official: Tensor, floor: float) -> float:
    """Largest difference over the largest official value; infinite where a value is missing or not finite.

    ``floor`` bounds the divisor from below.
    """
    if own is None or own.numel() != official.numel():
        return float("inf")
    own, official = own.detach().cpu().double(), official.double()
    difference = float((own.reshape(official.shape) - official).abs().max())
    relative = difference / max(float(official.abs().max()), floor, 1e-30)
    return relative if relative == relative else float("inf")


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """DAT makes constants in the default dtype; cuDNN would take TF32 for convolutions."""
    before = torch.get_default_dtype(), torch.backends.cudnn.allow_tf32
    torch.set_default_dtype(dtype)
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_default_dtype(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
