"""Errors that a user can mend: each prints as one line and ends a command with status 2."""

import difflib
import re
import traceback
from collections.abc import Iterable
from pathlib import Path

_LIBRARY = re.compile(r"/(site-packages|lib/python[\d.]+)/|^<")


class AttnbenchError(Exception):
    """A mistake in what was asked for. The message says what was wrong, what was expected, what to do."""


class UnknownNameError(AttnbenchError):
    """A name that is not in the list it was looked up in."""

    def __init__(self, kind: str, name: str, known: Iterable[str], advice: str = "") -> None:
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        told = f"unknown {kind} {name!r}; {hint}known: {', '.join(known) or 'none'}"
        super().__init__(f"{told}; {advice}" if advice else told)


class ImplementationError(AttnbenchError):
    """An implementation was asked for that cannot run here; the message says why."""


def reason(error: BaseException) -> str:
    """An error in one line; of attnbench's own only what it says, which is meant for the user."""
    text = str(error) if isinstance(error, AttnbenchError) else f"{type(error).__name__}: {error}"
    if isinstance(error, SystemExit):
        text = f"its code called exit({'' if error.code is None else repr(error.code)})"
    return " ".join(text.split())[:500].removesuffix(":")


def told(error: BaseException, path: str = "") -> str:
    """``RuntimeError: by design (bad.py:12)``: an error in one line, with where it came from.

    Args:
        error: what was raised.
        path: of a file whose line is wanted, if it is on the way; else the last line of anybody's but a
            library's.
    """
    text = reason(error)
    if isinstance(error, SyntaxError) and error.lineno:
        return text if "line" in text else f"{text} (line {error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if path and Path(frame.filename) == Path(path)]
    others = [frame for frame in frames if not _LIBRARY.search(frame.filename)]
    for place in (own or others)[-1:]:
        text += f" ({Path(place.filename).name}:{place.lineno})"
    return text
