"""Options held against the signature that takes them: names first, then types, with the near misses.

A mechanism declares its options as keyword arguments with annotations; nothing else lists them.
"""

import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

from attnbench.errors import AttnbenchError, UnknownNameError

_GIVEN = ("self", "site", "impl")
"""Arguments that are not the user's: the place in the backbone, and what ``--impl`` chooses."""


def check(what: str, builder: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Hold options against the signature of what is to be built.

    Args:
        what: the name of the mechanism, in the message.
        builder: its class or function; an argument without an annotation takes anything.
        options: by name. A list counts as a tuple.

    Raises:
        UnknownNameError: there is no such option.
        AttnbenchError: a value is not of the declared type.
    """
    known, open_ended = _options(builder)
    for name, value in options.items():
        if name not in known:
            if open_ended:
                continue
            raise UnknownNameError(f"option of {what}", name, known)
        if known[name] is not None and not _is_of(known[name], value):
            raise AttnbenchError(f"{what}: {name} must be {_shown(known[name])}, got {value!r}")


@functools.lru_cache(maxsize=256)
def _options(builder: Callable[..., Any]) -> tuple[dict[str, Any], bool]:
    """Type of each option, ``None`` where none is declared; and whether any other is taken, too."""
    parameters = inspect.signature(builder).parameters.values()
    try:
        hints = typing.get_type_hints(builder.__init__ if inspect.isclass(builder) else builder)
    except Exception:  # a name that only a type checker sees
        hints = {}
    named = [p for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    known = {p.name: hints.get(p.name) for p in named[1:] if p.name not in _GIVEN}
    known |= {p.name: hints.get(p.name) for p in named[:1] if p.kind is p.KEYWORD_ONLY}
    return known, any(p.kind is p.VAR_KEYWORD for p in parameters)


def _is_of(kind: Any, value: Any) -> bool:
    from pydantic import ValidationError

    try:
        _validator(kind).validate_python(_as_tuple(value))
    except ValidationError:
        return False
    return not (isinstance(value, bool) and kind is float)


@functools.lru_cache(maxsize=256)
def _validator(kind: Any) -> Any:
    from pydantic import ConfigDict, TypeAdapter

    return TypeAdapter(kind, config=ConfigDict(strict=True, arbitrary_types_allowed=True))


def _as_tuple(value: Any) -> Any:
    """Lists, which JSON has, as tuples, which signatures have."""
    return tuple(map(_as_tuple, value)) if isinstance(value, (list, tuple)) else value


def _shown(kind: Any) -> str:
    return kind.__name__ if inspect.isclass(kind) else str(kind).replace("typing.", "")
