"""An ablation grid: a TOML file that says what is varied, what is held, and what is measured. Needs no torch.

    title = "Window size by resolution"
    metrics = ["params", "macs"]

    [fixed]
    mechanism = "shifted_window"
    layout = "swin_t"

    [axes]
    resolution = [224, 448]
    options.window_size = [7, 14]

Every combination of the axes' values is a cell for each metric. A value of an axis may be a table, which sets
several things at once under a label: ``variant = [{label = "k=1", options.topk = 1}, ...]``.
"""

import itertools
import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnbench import baselines, metrics, registry
from attnbench.errors import AttnbenchError, UnknownNameError
from attnbench.layouts import get_layout

FIELDS: dict[str, type] = {
    "mechanism": str,
    "layout": str,
    "resolution": int,
    "precision": str,
    "mode": str,
    "implementation": str,
    "batch_size": int,
    "seed": int,
    "recipe": str,
}
"""What a grid may set besides ``options``, each with its type. ``recipe`` is how thoroughly to measure and
train: ``quick`` or ``full``."""
DEFAULTS: dict[str, Any] = {
    "layout": "swin_t",
    "resolution": 0,
    "precision": "fp32",
    "mode": "infer",
    "implementation": "auto",
    "batch_size": 0,
    "seed": 0,
    "recipe": "quick",
}
_CHOICES = {"precision": ("fp32", "amp"), "mode": ("infer", "train"), "recipe": ("quick", "full")}
_TOP = ("title", "metrics", "fixed", "axes")
_OPTIONS = "options"


@dataclass(frozen=True)
class Value:
    """One value of an axis: how a table prints it, the number it is if it is one, and what it sets."""

    label: str
    number: float | None
    fields: Mapping[str, Any]
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Axis:
    """What is varied, and its values in order."""

    name: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Point:
    """One combination: a value of each axis, and all that is set by them and held besides."""

    values: tuple[Value, ...]
    fields: Mapping[str, Any]
    options: Mapping[str, Any]

    @property
    def label(self) -> str:
        """The values' labels, joined."""
        return ", ".join(value.label for value in self.values)


@dataclass(frozen=True)
class Grid:
    """A grid as its file says it.

    Args:
        name: of the file.
        title: of table and figure.
        metrics: names, in the order asked for.
        axes: in the order of the file; the first is a figure's x axis.
        fixed: what is held.
    """

    name: str
    title: str
    metrics: tuple[str, ...]
    axes: tuple[Axis, ...]
    fixed: Value

    def points(self) -> list[Point]:
        """All combinations, the last axis fastest.

        Raises:
            AttnbenchError: a combination has no mechanism, or a name in it is unknown.
        """
        return [self._point(values) for values in itertools.product(*(axis.values for axis in self.axes))]

    def _point(self, values: tuple[Value, ...]) -> Point:
        fields, options = dict(DEFAULTS), dict[str, Any]()
        for value in (self.fixed, *values):
            fields |= value.fields
            options |= value.options
        if "mechanism" not in fields:
            raise AttnbenchError(f"{self.name}: no mechanism; set it in [fixed] or make it an axis")
        known = [*registry.names(), *baselines.TITLES]
        if fields["mechanism"] not in known:
            raise UnknownNameError("mechanism", fields["mechanism"], known)
        layout = get_layout(fields["layout"])
        fields["resolution"] = fields["resolution"] or layout.img_size
        return Point(values, fields, options)


def read(path: Path) -> Grid:
    """The grid of a file.

    Raises:
        AttnbenchError: the file cannot be read, is not TOML, or says what no grid says.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AttnbenchError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise AttnbenchError(f"{path} is not TOML: {error}") from error
    for key in content:
        if key not in _TOP:
            raise UnknownNameError(f"entry of {path}", key, _TOP)
    measured = content.get("metrics")
    if not isinstance(measured, list) or not measured:
        raise AttnbenchError(f'{path}: metrics must be a list of names such as ["params", "macs"]')
    for name in measured:
        metrics.get(str(name))
    axes = tuple(_axes(_table(path, content, "axes")))
    if not axes:
        raise AttnbenchError(f"{path}: no axes; [axes] lists what is varied, such as seed = [0, 1, 2]")
    held = _value(_table(path, content, "fixed"), "fixed")
    title = str(content.get("title", path.stem))
    return Grid(path.stem, title, tuple(dict.fromkeys(measured)), axes, held)


def _table(path: Path, content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = content.get(name, {})
    if not isinstance(found, dict):
        raise AttnbenchError(f"{path}: {name} must be a table, [{name}]")
    return found


def _axes(content: Mapping[str, Any]) -> Iterator[Axis]:
    for name, values in content.items():
        if name == _OPTIONS:
            for option, choices in _mapping(values, "axes.options").items():
                yield Axis(option, tuple(_option_value(option, v) for v in _listed(option, choices)))
        elif name in FIELDS:
            yield Axis(name, tuple(_value({name: v}, name, label=_say(v)) for v in _listed(name, values)))
        else:
            yield Axis(name, tuple(_value(v, name) for v in _listed(name, values)))


def _listed(name: str, values: Any) -> list[Any]:
    if not isinstance(values, list) or not values:
        raise AttnbenchError(f"axis {name} must be a list of values that is not empty, got {_say(values)}")
    return values


def _option_value(option: str, value: Any) -> Value:
    """A value of an option; the string ``"none"`` stands for None, which TOML has no word for."""
    return Value(_say(value), _number(value), {}, {option: _with_none(value)})


def _value(content: Any, name: str, label: str = "") -> Value:
    """What a table of settings says; of a single setting, its number too."""
    if not isinstance(content, dict):
        kinds = ", ".join([*FIELDS, "options.NAME"])
        raise AttnbenchError(
            f"axis {name} is none of {kinds}, so its values must be tables such as "
            f'{{label = "a", options.topk = 1}}, got {_say(content)}'
        )
    content = dict(content)
    label = str(content.pop("label", label))
    options = {k: _with_none(v) for k, v in _mapping(content.pop(_OPTIONS, {}), _OPTIONS).items()}
    for key, value in content.items():
        _check(key, value)
    if not label:
        label = ", ".join(f"{key}={_say(value)}" for key, value in (content | options).items())
    number = _number(next(iter(content.values()))) if len(content) == 1 and not options else None
    return Value(label, number, content, options)


def _check(key: str, value: Any) -> None:
    """Raise AttnbenchError where a field is unknown or its value of another kind."""
    if key not in FIELDS:
        raise UnknownNameError("field of a grid", key, [*FIELDS, _OPTIONS])
    if not isinstance(value, FIELDS[key]) or isinstance(value, bool):
        raise AttnbenchError(f"{key} must be of type {FIELDS[key].__name__}, got {_say(value)}")
    if isinstance(value, int) and value < (0 if key == "seed" else 1):
        raise AttnbenchError(f"{key} must be a positive whole number, got {value}")
    if key in _CHOICES and value not in _CHOICES[key]:
        raise UnknownNameError(key, str(value), _CHOICES[key])


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise AttnbenchError(f"{name} must be a table such as {{topk = 1}}, got {_say(value)}")
    return value


def _with_none(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_none(item) for item in value]
    return None if value == "none" else value


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _say(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value).replace('"', "")
