"""What all recipes are: settings in a TOML file, a digest of those that matter, changes by dotted names."""

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from attnbench.errors import AttnbenchError, UnknownNameError
from attnbench.record import digest


class Part(BaseModel):
    """A table of a recipe: unknown keys are errors, and so are numbers that are not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class RecipeFile(Part):
    """A recipe.

    Args:
        name: of the file.
        source: repository, commit and files that the figures stand in.
        oddities: what is unlike the paper or unlike others, one sentence each.
    """

    words: ClassVar[frozenset[str]] = frozenset({"name", "title", "source", "oddities"})
    """What does not bear on the result, and is not part of the digest."""
    open_tables: ClassVar[frozenset[str]] = frozenset()
    """Tables that take any key."""

    name: str
    title: str
    source: str
    oddities: tuple[str, ...] = ()

    def digest(self) -> str:
        """Sixteen hex digits of all that bears on the result; records carry them."""
        return digest(self._settings())

    def flat(self) -> dict[str, Any]:
        """Every setting by its dotted name, ``schedule.warmup`` and so on."""
        return dict(_flattened(self._settings()))

    def changed(self, settings: Mapping[str, Any]) -> Self:
        """The recipe with other settings, given by dotted names.

        Raises:
            AttnbenchError: there is no such setting, or it cannot have the value.
        """
        content = self.model_dump(mode="json")
        for key, value in settings.items():
            where: Any = content
            *parents, last = key.split(".")
            for parent in parents:
                where = where.get(parent) if isinstance(where, dict) else None
            known = isinstance(where, dict) and (last in where or bool({*parents[:1]} & self.open_tables))
            if not known or key in self.words:
                raise UnknownNameError("setting of a recipe", key, self.flat())
            where[last] = value
        changes = ", ".join(f"{key}={value!r}" for key, value in settings.items())
        return validated(type(self), content, f"recipe {self.name} with {changes}")

    def _settings(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude=set(self.words))


Kind = TypeVar("Kind", bound=RecipeFile)


def read(kind: type[Kind], name: str, found: Mapping[str, Path]) -> Kind:
    """A recipe by name, or by the path of its ``.toml`` file.

    Args:
        kind: of recipe.
        name: or path.
        found: files of the recipes that are installed, by name.

    Raises:
        AttnbenchError: there is none, or the file is no recipe: an unknown key is an error.
    """
    path = Path(name).expanduser() if name.endswith(".toml") else found.get(name)
    if path is None:
        raise UnknownNameError("recipe", name, found)
    if not path.is_file():
        raise AttnbenchError(f"there is no recipe file {name}; known by name: {', '.join(found)}")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise AttnbenchError(f"recipe {path} cannot be read as TOML: {error}") from error
    told = {"title": path.stem, "source": str(path), "name": path.stem}
    return validated(kind, {**told, **content}, f"recipe {path}")


def validated(kind: type[Kind], content: Mapping[str, Any], what: str) -> Kind:
    """A recipe of what a file holds.

    Raises:
        AttnbenchError: a setting is unknown, missing or has a value that it cannot have.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
        where = ".".join(map(str, first["loc"])) or "the whole"
        got = "" if isinstance(first["input"], dict) else f" (got {first['input']!r})"
        raise AttnbenchError(f"{what}: {where}: {first['msg']}{got}") from error


def _flattened(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by their dotted names; an empty table is a setting of its own."""
    for key, value in content.items():
        if isinstance(value, dict) and value:
            yield from _flattened(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
