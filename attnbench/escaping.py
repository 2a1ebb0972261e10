"""Text from records and plug-ins, which may hold anything, as it is written into tables. Needs no torch."""

import html as _html
import re
from typing import Any

_TAG = re.compile(r"<(?=[A-Za-z/!?])")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def html(text: object) -> str:
    """Text as HTML shows it."""
    return _html.escape(str(text), quote=False)


def markdown(text: str) -> str:
    """Text in one line of Markdown, which takes tags of HTML for such."""
    return _TAG.sub("&lt;", " ".join(text.splitlines()))


def markdown_cell(text: str) -> str:
    """Text in a cell of a table in Markdown."""
    return markdown(text).replace("|", "\\|")


def spreadsheet(value: Any) -> Any:
    """A value of a CSV; a text that a spreadsheet would run as a formula gets an apostrophe before it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
