"""Seals: the digest of a record's line, written with it, so that a line changed afterwards is found out.

A seal is no signature: it tells a slip of the hand, a bad copy or a sloppy script, not someone who computes
it anew. Records from before there were seals have none.
"""

from typing import Any

from attnbench.record import digest

SEAL = "seal"
"""Its name in the line; it is of the line, not of the record, which has no such field."""
SINCE = 3
"""The first schema of records whose lines all have one."""


def seal(content: dict[str, Any]) -> str:
    """Sixteen hex digits of all that a line holds but its seal."""
    return digest({key: value for key, value in content.items() if key != SEAL})


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """The content of a line, with its seal."""
    return content | {SEAL: seal(content)}


def is_broken(content: dict[str, Any]) -> bool:
    """Whether a line has a seal and is not what was sealed."""
    return SEAL in content and content[SEAL] != seal(content)
