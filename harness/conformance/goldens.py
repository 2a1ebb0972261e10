"""Prove a port: rebuild the cases of a golden folder and compare output and every gradient.

A golden folder holds MANIFEST.json and one safetensors file per case: seeded weights, an input, a
cotangent, and what the official module returned for them. The manifest's ``mechanism`` names the
official module; the registered class that lists it in ``goldens`` rebuilds it in ``from_official``.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from attnbench import registry
from attnbench.errors import AttnbenchError

TOLERANCE = {"float64": 1e-9, "float32": 1e-4}
"""Largest error relative to the largest value of the tensor, by the dtype the case was computed in."""


@dataclass
class Outcome:
    """One case compared: relative error of each tensor, or why it could not be run."""

    case: str
    mechanism: str
    tolerance: float = 0.0
    errors: dict[str, float] = field(default_factory=dict)
    reason: str = ""

    @property
    def equal(self) -> bool:
        """Every tensor of the file was compared and lies within the tolerance."""
        return (
            not self.reason and bool(self.errors) and all(e <= self.tolerance for e in self.errors.values())
        )

    def __str__(self) -> str:
        if self.reason:
            return f"{self.case}: not run: {self.reason}"
        worst = max(self.errors, key=lambda name: self.errors[name])
        verdict = "equal" if self.equal else "DIFFERENT"
        return (
            f"{self.case}: {verdict} ({len(self.errors)} tensors, worst {worst} "
            f"{self.errors[worst]:.1e}, tolerance {self.tolerance:.0e})"
        )


def load_cases(folder: Path) -> list[dict[str, Any]]:
    """Entries of a folder's manifest.

    Raises:
        AttnbenchError: there is no readable MANIFEST.json in it.
    """
    path = folder / "MANIFEST.json"
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["entries"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AttnbenchError(
            f"{path} is not a golden manifest ({error}); expected JSON with 'entries'"
        ) from error
    return list(entries)


def check_folder(folder: Path, only: str | None = None) -> Iterator[Outcome]:
    """Compare every case of a golden folder, or those of one registered mechanism."""
    owners = {golden: name for name in registry.names() for golden in registry.get(name).facts.goldens}
    for case in load_cases(folder):
        owner = owners.get(case["mechanism"])
        if only is None or owner == only:
            yield check_case(folder, case, owner)


def check_case(folder: Path, case: dict[str, Any], owner: str | None) -> Outcome:
    """Compare one case with the registered mechanism ``owner``."""
    outcome = Outcome(Path(case["file"]).stem, case["mechanism"], TOLERANCE[case["compute_dtype"]])
    if owner is None:
        outcome.reason = f"no registered mechanism lists {case['mechanism']!r} in its goldens"
        return outcome
    try:
        tensors = load_file(folder / case["file"])
        with _default_dtype(getattr(torch, case["compute_dtype"])):
            outcome.errors = _compare(owner, case, tensors)
    except Exception as error:  # a port under proof may fail in any way; the others still run
        outcome.reason = f"{type(error).__name__}: {error}"
    return outcome


def build_official(owner: str, case: dict[str, Any]) -> tuple[nn.Module, dict[str, str]]:
    """The module a case was made with, and the map from official to own parameter names."""
    builder = registry.get(owner).load()
    if not hasattr(builder, "from_official"):
        raise AttnbenchError(f"{owner} lists goldens but has no from_official method")
    return builder.from_official(case)


def rename(name: str, prefixes: dict[str, str]) -> str:
    """Own name of an official parameter: the longest matching prefix is replaced."""
    match = max((p for p in prefixes if name.startswith(p)), key=len, default="")
    return prefixes.get(match, "") + name[len(match) :]


def _compare(owner: str, case: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, float]:
    module, prefixes = build_official(owner, case)
    dtype = getattr(torch, case["compute_dtype"])
    module = module.to(dtype)
    parameters = dict(module.named_parameters())
    used: dict[str, Tensor] = {}
    for key, value in tensors.items():
        if key.startswith("param."):
            own = rename(key.removeprefix("param."), prefixes)
            if own not in parameters:
                raise AttnbenchError(f"official parameter {key} maps to {own}, which the module lacks")
            with torch.no_grad():
                parameters[own].copy_(value.to(dtype).reshape(parameters[own].shape))
            used[key] = parameters[own]
    unset = set(map(id, parameters.values())) - set(map(id, used.values()))
    if unset:
        raise AttnbenchError(
            f"parameters not in the golden: {[n for n, p in parameters.items() if id(p) in unset]}"
        )
    x = tensors["input"].to(dtype).requires_grad_(case["has_gradients"])
    out = module(x)
    errors = {"output": _error(out, tensors["output"], 0.0)}
    if case["has_gradients"]:
        (out * tensors["cotangent"].to(dtype)).sum().backward()
        grads = {"grad.input": x.grad} | {f"grad.{key}": p.grad for key, p in used.items()}
        largest = max(float(tensors[key].abs().max()) for key in grads if key in tensors)
        errors |= {k: _error(g, tensors[k], 1e-3 * largest) for k, g in grads.items() if k in tensors}
    return errors


def _error(own: Tensor | None, official: Tensor, floor: float) -> float:
    """Largest difference over the largest official value; infinite where a value is missing or not finite.

    ``floor`` bounds the divisor from below: a gradient that is zero but for rounding (a bias that softmax
    cancels) has no scale of its own.
    """
    if own is None or own.numel() != official.numel():
        return float("inf")
    difference = (own.detach().reshape(official.shape).double() - official.double()).abs().max()
    error = float(difference / max(float(official.double().abs().max()), floor, 1e-30))
    return error if error == error else float("inf")


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
