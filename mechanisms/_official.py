"""What the ``from_official`` methods share: options of an official constructor, none of them passed over."""

from collections.abc import Mapping
from typing import Any


def only(kwargs: Mapping[str, Any], **known: Any) -> None:
    """Refuse official options that ask for something else than what was ported.

    Args:
        kwargs: options that an official module was built with.
        known: the one value of an option that is understood; it need not be given.

    Raises:
        ValueError: an option has another value.
    """
    for name, value in known.items():
        if name in kwargs and kwargs[name] != value:
            raise ValueError(f"the official option {name} is known as {value!r} alone, got {kwargs[name]!r}")


NO_DROPOUT = {"attn_drop": 0.0, "proj_drop": 0.0}
"""Dropout that changes nothing."""


def ignored(kwargs: Mapping[str, Any], *names: str) -> None:
    """Look at official options that change nothing in what was ported, so that they count as known."""
    for name in names:
        kwargs.get(name)
