"""What tests read in documents: the example of docs/extending.md, and the rows of a table in Markdown."""

import re
from pathlib import Path

EXTENDING = (Path(__file__).parent.parent / "docs" / "extending.md").read_text(encoding="utf-8")


def example() -> str:
    """The attention mechanism ``row`` that a user is shown, one file."""
    found = re.search(r"```python\n(# my_attention.py\n.*?)```", EXTENDING, flags=re.DOTALL)
    assert found
    return found.group(1)


def cells(line: str) -> list[str]:
    """Texts of a row's cells, without what aligns them."""
    return [cell.strip() for cell in line.strip("|").split("|")]
