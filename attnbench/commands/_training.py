"""What the commands that train and score share: data, recipes and the settings of a run."""

import json
from pathlib import Path
from typing import Any

from attnbench import datasets, recipes
from attnbench.commands import _types
from attnbench.errors import AttnbenchError, UnknownNameError
from attnbench.recipes import Recipe

_TASKS = ("classification", "semantic", "detection")
PRECISION = _types.OneOf("precision", "auto", "fp32", "fp16", "bf16")


def data_of(text: str) -> tuple[str, str]:
    """``imagenet:/data`` as the name of a data set and its place; a path alone has no name.

    Raises:
        AttnbenchError: it is neither the name of a data set nor a folder.
    """
    name, colon, root = text.partition(":")
    known = [name for task in _TASKS for name in datasets.names(task)]
    if name in known:
        if colon and not Path(root).expanduser().is_dir():
            raise AttnbenchError(f"there is no folder {root!r} for data set {name}")
        return name, root
    if Path(text).expanduser().is_dir():
        return "", text
    if "/" in text or text.startswith((".", "~")):
        raise AttnbenchError(
            f"there is no folder {text}; expected: train/<class>/<image> and val/<class>/<image>, tar shards "
            f"or parquet files there, or a data set: {', '.join(known)}"
        )
    raise UnknownNameError("data set (or folder)", text, known)


class Data(_types.Word):
    """What there is to train on: ``digits``, ``imagenet:/data`` or a path, as name and place."""

    name = "data"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, str]:
        """The name of a data set, empty for a path alone, and the place."""
        if isinstance(value, tuple):
            return value[0], value[1]
        try:
            return data_of(super().convert(value, param, ctx))
        except (AttnbenchError, OSError) as error:
            self.fail(str(error), param, ctx)


def recipe_of(name: str, changes: dict[str, Any]) -> Recipe:
    """A recipe with changes, by name or file.

    Raises:
        AttnbenchError: there is none, or it has no such setting.
    """
    found = recipes.get(name)
    return found.changed(changes) if changes else found


class Change(_types.Setting):
    """``schedule.epochs=100`` as a name and a value; a value that is not JSON is a word."""

    name = "change"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, Any]:
        """The name and the value; whether a recipe has such a setting, the recipe says."""
        if isinstance(value, tuple):
            return value[0], value[1]
        key, equals, text = value.partition("=")
        if not equals or not all(part.isidentifier() for part in key.split(".")):
            self.fail(f"must be KEY=VALUE, got {value!r}", param, ctx)
        try:
            return key, json.loads(text)
        except (ValueError, RecursionError):
            return key, text[:200]


def folder_name(layout: str, mechanism: str, data: str, recipe: Recipe, seed: int) -> str:
    """Where a run is kept unless told otherwise: the same command finds it again."""
    return f"attnbench-results/train/{layout}-{mechanism}-{data}-{recipe.name}-{recipe.digest()[:6]}-{seed}"
