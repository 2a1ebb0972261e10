"""A golden folder as it must be: every file, field, tensor and option is named, and what is named is there.

A comparison that quietly compares less proves less. So whatever the manifest names and the folder lacks, or
the folder holds and the manifest does not name, is a defect of the case, and such a case is not equal.
"""

import hashlib
import json
from collections import UserDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from attnbench.errors import AttnbenchError

TOLERANCE = {"float64": 1e-9, "float32": 1e-4}
"""Largest error relative to the largest value of the tensor, by the dtype that is compared in."""
_FIELDS: dict[str, type] = {
    "file": str,
    "mechanism": str,
    "cls": str,
    "kwargs": dict,
    "input_shape": list,
    "compute_dtype": str,
    "has_gradients": bool,
}
_PREFIXES = ("param.", "buffer.", "aux.")


class Damaged(AttnbenchError):  # noqa: N818
    """A golden case is not what its manifest says; the message says how."""


class Kwargs(UserDict[str, Any]):
    """Options of an official constructor, which remember whether anybody looked at them."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.read: set[str] = set()
        super().__init__(values)

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return super().__getitem__(key)

    def unread(self) -> list[str]:
        """Options that nobody asked for."""
        return sorted(set(self.data) - self.read)


def load_cases(folder: Path) -> list[dict[str, Any]]:
    """Entries of a folder's manifest.

    Raises:
        AttnbenchError: there is no readable MANIFEST.json in it, or its entries are not a list of objects.
    """
    path = folder / "MANIFEST.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        entries = manifest["entries"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AttnbenchError(
            f"{path} is not a golden manifest ({error}); expected JSON with 'entries'"
        ) from error
    if not (isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)):
        raise AttnbenchError(f"{path}: 'entries' must be a list of objects, one per case")
    return entries


def strays(folder: Path, cases: list[dict[str, Any]]) -> Iterator[str]:
    """What is wrong with the folder as a whole: files that no entry names, or that two entries name."""
    named = [str(case.get("file")) for case in cases]
    yield from (
        f"{name}: named by {named.count(name)} entries" for name in set(named) if named.count(name) > 1
    )
    for path in sorted(folder.rglob("*.safetensors")):
        if (name := path.relative_to(folder).as_posix()) not in named:
            yield f"{name}: no entry of the manifest names it"


def read(folder: Path, case: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors of a case, if the case is whole.

    Raises:
        Damaged: a field is missing or odd, the file is another, or its tensors are not those it must have.
    """
    _check_fields(case)
    path = folder / case["file"]
    if Path(case["file"]).is_absolute() or ".." in Path(case["file"]).parts:
        raise Damaged(f"file {case['file']!r} lies outside of the folder")
    try:
        content = path.read_bytes()
        tensors = load_file(path)
    except Exception as error:  # safetensors raises its own, torch what it likes
        raise Damaged(f"cannot read {path.name}: {type(error).__name__}: {error}") from error
    if "sha256" in case and hashlib.sha256(content).hexdigest() != case["sha256"]:
        raise Damaged(f"the sha256 of {path.name} is not the manifest's")
    defects = [*_undeclared(case, tensors), *_names(case, tensors), *_shapes(case, tensors), *_empty(tensors)]
    if defects:
        raise Damaged("; ".join(defects))
    return tensors


def _check_fields(case: dict[str, Any]) -> None:
    for name, kind in _FIELDS.items():
        if not isinstance(case.get(name), kind):
            raise Damaged(f"the entry's {name!r} must be of type {kind.__name__}, got {case.get(name)!r}")
    shape = case["input_shape"]
    if len(shape) != 4 or not all(isinstance(n, int) and n > 0 for n in shape):
        raise Damaged(f"'input_shape' must be four positive numbers (B, H, W, C), got {shape}")
    if case["compute_dtype"] not in TOLERANCE:
        raise Damaged(f"'compute_dtype' must be one of {', '.join(TOLERANCE)}, got {case['compute_dtype']!r}")
    without = case.get("params_without_grad", [])
    if not (isinstance(without, list) and all(isinstance(name, str) for name in without)):
        raise Damaged(f"'params_without_grad' must be a list of names, got {without!r}")


def _undeclared(case: dict[str, Any], tensors: dict[str, Tensor]) -> Iterator[str]:
    """Differences between the file and the entry's own list, if it has one: {name: [dtype, shape]}."""
    declared = case.get("tensors")
    if declared is None:
        return
    if not isinstance(declared, dict):
        yield f"'tensors' must be an object of names, got {declared!r}"
        return
    yield from (f"{name} is in the manifest and not in the file" for name in declared.keys() - tensors.keys())
    yield from (f"{name} is in the file and not in the manifest" for name in tensors.keys() - declared.keys())
    for name in declared.keys() & tensors.keys():
        found = [str(tensors[name].dtype).removeprefix("torch."), list(tensors[name].shape)]
        if found != declared[name]:
            yield f"{name} is {found}, and {declared[name]} in the manifest"


def _names(case: dict[str, Any], tensors: dict[str, Tensor]) -> Iterator[str]:
    """Tensors that must be there and are not, and those that nothing would compare."""
    parameters = {name for name in tensors if name.startswith("param.")}
    without = {f"param.{name}" for name in case.get("params_without_grad", [])}
    yield from (f"{name} is said to have no gradient and is not there" for name in without - parameters)
    needed = {"input", "output"}
    if case["has_gradients"]:
        needed |= {"cotangent", "grad.input", *(f"grad.{name}" for name in parameters - without)}
    yield from (f"{name} is missing" for name in sorted(needed - tensors.keys()))
    for name in sorted(tensors.keys() - needed - parameters):
        if not name.startswith(_PREFIXES):
            why = "" if case["has_gradients"] else ", though 'has_gradients' is false"
            yield f"{name} is there{why}: nothing compares it"


def _shapes(case: dict[str, Any], tensors: dict[str, Tensor]) -> Iterator[str]:
    """Shapes that cannot be right: of the input, of the cotangent, of gradients."""
    twins = {f"grad.{name}": name for name in tensors} | {"cotangent": "output"}
    for name, twin in twins.items():
        if name in tensors and twin in tensors and tensors[name].shape != tensors[twin].shape:
            yield f"{name} has the shape {list(tensors[name].shape)}, {twin} {list(tensors[twin].shape)}"
    if "input" in tensors and list(tensors["input"].shape) != case["input_shape"]:
        yield f"input has the shape {list(tensors['input'].shape)}, {case['input_shape']} in the manifest"


def _empty(tensors: dict[str, Tensor]) -> Iterator[str]:
    """Tensors that prove nothing: not finite, or zero where everything that follows would be zero."""
    for name, value in tensors.items():
        if value.is_floating_point() and not value.isfinite().all():
            yield f"{name} holds values that are not finite"
        if name in ("input", "output", "cotangent") and not value.any():
            yield f"{name} is all zero"
