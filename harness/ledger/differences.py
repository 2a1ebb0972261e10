"""Everything in which two models differ, found by comparing the models themselves.

An ablation table means to change the attention alone. Whether it did can be read off the modules: their
classes, settings, parameters and multiply-adds, place by place (stem, downsampling, each part of a block,
head). Nothing is listed by hand, so any two models whose parts carry the usual names can be compared. The
rows account for the whole gap: their parameters and MACs add up to it exactly.
Not seen: what a ``forward`` does with its modules, other than by its MACs.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from attnbench.harness.counting.macs import count_parts

_PLACE = re.compile(r"((?:layers|stages)\.\d+\.(?:blocks\.\d+\.)?[^.]+|[^.]+)\.?(.*)")
_INTERNAL = frozenset({"impl", "training", "fused_attn", "inplace", "grad_checkpointing", "flatten"})
"""Attributes that say how a module computes, not what."""
_CONTAINERS = (nn.Identity, nn.Sequential, nn.ModuleList, nn.Dropout)


@dataclass(frozen=True)
class Part:
    """A module or parameter: its class, its settings, and the learned numbers that are its own."""

    kind: str
    settings: Mapping[str, str]
    parameters: int

    def __str__(self) -> str:
        shown = ", ".join(
            value if key.isdigit() else f"{key}={value}" for key, value in self.settings.items()
        )
        return f"{self.kind}({shown})"


@dataclass
class Place:
    """What lies at one path of a model: its parts by their path inside, and its MACs per image."""

    parts: dict[str, Part] = field(default_factory=dict)
    macs: int = 0


@dataclass(frozen=True)
class Difference:
    """One difference at one place; empty ``a`` or ``b``: that model has nothing there.

    Args:
        place: path, e.g. ``layers.0.blocks.1.attn``.
        part: path inside the place, e.g. ``qkv``; empty for the place as a whole.
        aspect: name of the setting that differs, or ``module``, or ``multiply-adds``.
        parameters, macs: how many more B has.
    """

    place: str
    part: str
    aspect: str
    a: str
    b: str
    parameters: int = 0
    macs: int = 0

    @property
    def is_attention(self) -> bool:
        """Whether it is the exchange of the attention itself, which the comparison is about."""
        return self.place.endswith(".attn") and not self.part and self.aspect in ("module", "multiply-adds")


def compare(a: nn.Module, b: nn.Module, image: torch.Tensor) -> list[Difference]:
    """All differences between two models, in the order of their places.

    Args:
        a, b: models on meta tensors.
        image: (1, in_chans, height, width) on meta tensors, for the MACs.

    Raises:
        AttnbenchError: the MACs of a model cannot be counted.
    """
    one, other = describe(a, image), describe(b, image)
    found: list[Difference] = []
    for path in dict.fromkeys([*one, *other]):
        found += _at_place(path, one.get(path, Place()), other.get(path, Place()))
    return found


def describe(model: nn.Module, image: torch.Tensor) -> dict[str, Place]:
    """The places of a model with their parts and MACs."""
    places: dict[str, Place] = {}
    for path, module in list(model.named_modules())[1:]:
        for name, part in _parts(module, _split(path)[0]).items():
            place, inside = _split(f"{path}.{name}".strip("."))
            places.setdefault(place, Place()).parts[inside] = part
    modules = dict(model.named_modules())
    watched = {path: modules[path] for path in places if path in modules}
    for path, macs in count_parts(model, image, watched).items():
        places[path].macs = macs
    return places


def _split(path: str) -> tuple[str, str]:
    match = _PLACE.fullmatch(path)
    return (match[1], match[2]) if match else (path, "")


def _parts(module: nn.Module, place: str) -> dict[str, Part]:
    """A module as parts: itself, if it has settings, and the parameters that are its own."""
    if isinstance(module, _CONTAINERS):
        return {}
    own = dict(module.named_parameters(recurse=False))
    count, kind = sum(p.numel() for p in own.values()), type(module).__name__
    if any(base.__module__.startswith("torch.nn") and base is not nn.Module for base in type(module).__mro__):
        return {"": Part(kind, _printed(module), count)}
    shapes = {name: f"{tuple(p.shape)}" for name, p in own.items()}
    if not any(True for _ in module.children()):
        return {"": Part(kind, _printed(module) | _public(module) | shapes, count)}
    parts = {name: Part("Parameter", {"0": shapes[name]}, p.numel()) for name, p in own.items()}
    # What a module of modules is set to shows in its parts; only an attention's heads and scale do not.
    return {"": Part(kind, _public(module), 0), **parts} if place.endswith(".attn") else parts


def _public(module: nn.Module) -> dict[str, str]:
    """Numbers, flags and words among a module's attributes."""
    return {
        name: _short(value)
        for name, value in vars(module).items()
        if not name.startswith("_") and name not in _INTERNAL and _is_setting(value)
    }


def _printed(module: nn.Module) -> dict[str, str]:
    """What a class prints of a module, by name; by number where it prints no name."""
    pieces = re.findall(r"[^,(]*(?:\([^)]*\))?[^,(]*", module.extra_repr())
    settings: dict[str, str] = {}
    for piece in filter(None, (piece.strip() for piece in pieces)):
        name, equals, value = piece.partition("=")
        settings[name if equals else str(len(settings))] = value if equals else piece
    return settings


def _is_setting(value: object) -> bool:
    if isinstance(value, tuple):
        return all(isinstance(item, (bool, int, float, str)) for item in value)
    return isinstance(value, (bool, int, float, str))


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _at_place(path: str, a: Place, b: Place) -> list[Difference]:
    found: list[Difference] = []
    for name, one, other in _pairs(a.parts, b.parts):
        found += _between(path, name, one, other)
    if a.macs != b.macs:
        found.append(
            Difference(path, "", "multiply-adds", f"{a.macs:,}", f"{b.macs:,}", macs=b.macs - a.macs)
        )
    return found


def _pairs(a: Mapping[str, Part], b: Mapping[str, Part]) -> list[tuple[str, Part | None, Part | None]]:
    """Parts of A beside those of B: by path, then by the last name of the path, then in their order."""
    pairs: list[tuple[str, Part | None, Part | None]] = [(name, a[name], b[name]) for name in a if name in b]
    one = {name: part for name, part in a.items() if name not in b}
    other = {name: part for name, part in b.items() if name not in a}
    for name in list(one):
        match = next((o for o in other if o.rpartition(".")[2] == name.rpartition(".")[2]), None)
        if match is not None:
            pairs.append((max(name, match, key=len), one.pop(name), other.pop(match)))
    for kind in ("module", "Parameter"):  # what is left stands for one another, or stands alone
        left, right = (
            [(n, p) for n, p in rest.items() if (p.kind == "Parameter") == (kind == "Parameter")]
            for rest in (one, other)
        )
        if kind == "Parameter" or len(left) != len(right):
            pairs += [(name, part, None) for name, part in left] + [
                (name, None, part) for name, part in right
            ]
        else:
            pairs += [
                (f"{n} / {m}", part, partner) for (n, part), (m, partner) in zip(left, right, strict=True)
            ]
    return pairs


def _between(path: str, name: str, a: Part | None, b: Part | None) -> list[Difference]:
    more = (b.parameters if b else 0) - (a.parameters if a else 0)
    if a is None or b is None or a.kind != b.kind:
        one, other = (
            "" if part is None else str(part) if name or not path.endswith(".attn") else part.kind
            for part in (a, b)
        )
        found = [Difference(path, name, "module", one, other, more)]
        if a is not None and b is not None and path.endswith(".attn"):
            found += _settings(path, name, a, b, common_only=True)
        return found
    found = _settings(path, name, a, b)
    if found and more:  # a setting has changed the parameters
        first = found[0]
        found[0] = Difference(path, name, first.aspect, first.a, first.b, more)
    return found


def _settings(path: str, name: str, a: Part, b: Part, common_only: bool = False) -> list[Difference]:
    keys = [key for key in dict.fromkeys([*a.settings, *b.settings])]
    if common_only:
        keys = [key for key in keys if key in a.settings and key in b.settings]
    pairs = [(key, a.settings.get(key, ""), b.settings.get(key, "")) for key in keys]
    names = {"0": "size"}
    return [Difference(path, name, names.get(key, key), x, y) for key, x, y in pairs if x != y]
