"""Errors that a user can mend: each prints as one line and ends a command with status 2."""

import difflib
from collections.abc import Iterable


class AttnbenchError(Exception):
    """A mistake in what was asked for. The message says what was wrong, what was expected, what to do."""


class UnknownNameError(AttnbenchError):
    """A name that is not in the list it was looked up in."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        super().__init__(f"unknown {kind} {name!r}; {hint}known: {', '.join(known) or 'none'}")


class ImplementationError(AttnbenchError):
    """An implementation was asked for that cannot run here; the message says why."""
