"""Options say the same thing in every mechanism: one word for one meaning, as docs/extending.md lists."""

import inspect
import re
from pathlib import Path

import pytest

from attnbench import registry

LIST = Path(__file__).parents[2] / "docs" / "extending.md"
INSTEAD = {
    "scale": "qk_scale",
    "lepe": "lepe_kernel",
    "attn_type": "form",
    "mode": "form",
    "version": "form",
    "axis": "kind",
    "partition": "kind",
    "branch": "kind",
}


def _options(name: str) -> dict[str, inspect.Parameter]:
    found = dict(inspect.signature(registry.get(name).load()).parameters)
    return {key: found[key] for key in found if key != "site"}


@pytest.mark.parametrize("name", registry.names())
def test_no_mechanism_has_another_word_for_what_has_one(name: str) -> None:
    assert not {key: INSTEAD[key] for key in _options(name) if key in INSTEAD}


def test_a_word_that_is_listed_is_used() -> None:
    table = LIST.read_text().partition("| option |")[2].partition("\n\n")[0]
    listed = set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE))
    used = [key for name in registry.names() for key in _options(name)]
    shared = {key for key in used if used.count(key) > 1}
    assert listed >= shared, "an option that two mechanisms share has its line"
    assert listed <= set(used)
