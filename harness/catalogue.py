"""The catalogue: all mechanisms on one page, as text for a terminal, as Markdown for docs/mechanisms.md."""

import inspect
import itertools
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from attnbench import certificates, markdown
from attnbench.errors import AttnbenchError
from attnbench.harness.counting.parameters import measure as count_parameters
from attnbench.harness.models.backbone import create_model
from attnbench.harness.pattern_pictures import SIDE, pictures, side_by_side
from attnbench.registry import MechanismSpec

WIDTH = 100
PATTERNS = {
    "static": "static: where a token attends depends on its position only",
    "image": "dynamic, query-agnostic: it depends on the image, and is the same for all queries of an image",
    "query": "dynamic, query-aware: it depends on the image and on the query",
}
_STALE = "<!-- Written by 'attnbench catalogue --output docs/mechanisms.md'; do not edit. -->"
_INTRO = f"""\
Every mechanism maps (B, H, W, C) to (B, H, W, C) and sits in the Swin-T layout (`--layout swin_t`); MACs and
parameters are those of the whole model at 224 × 224, by the mechanisms' formulas. Settings that differ
between the four stages are listed in their order. Implementations: `--impl auto` takes the fastest for
device, dtype and shape where the mechanism can tell, else the first; any can run `--impl compiled`.

In a picture, a map of {SIDE} × {SIDE} tokens, the marks ▸ and ▾ point at the row and column of one query;
black are the tokens that its output depends on, through attention or a local term, with the settings of the
first and of the third stage. Of a dynamic pattern it is what one image of noise gives; where every token has
some influence, black are those with more than average.

What official code each equals on its golden cases, and the options for it: [equality.md](equality.md)."""


@dataclass(frozen=True)
class Entry:
    """What the catalogue tells of one mechanism.

    Args:
        summary, cost: from the docstring of its class; empty if it has none.
        parameters, macs: of the model in the Swin-T layout at 224 × 224; ``None`` where they cannot be had.
        drawn: see :func:`attnbench.harness.pattern_pictures.pictures`.
        certificate: whether it passed the conformance suite as it is.
        code, differs: from the docstring of its file: what it was written from and equals, and what differs.
    """

    spec: MechanismSpec
    summary: str
    cost: str
    parameters: int | None
    macs: int | None
    drawn: list[tuple[str, list[str]]] = field(default_factory=list)
    certificate: str = ""
    code: str = ""
    differs: str = ""

    def facts(self) -> dict[str, str]:
        """All but summary and pictures, by heading."""
        facts = self.spec.facts
        settings = "; ".join(f"{name} {_setting(value)}" for name, value in facts.per_stage.items())
        return {
            "Paper": ", ".join(filter(None, [facts.paper, str(facts.year or "")])),
            "Pattern": PATTERNS.get(facts.pattern, ""),
            "Complexity": facts.complexity,
            "Cost": self.cost,
            "Code": self.code,
            "Golden cases": ", ".join(facts.goldens),
            "Differs": self.differs,
            "Swin-T layout": self._size(),
            "Settings": settings,
            "Implementations": ", ".join(facts.impls),
            "Certificate": self.certificate,
        }

    def _size(self) -> str:
        macs = "" if self.macs is None else f"{self.macs / 1e9:.4f} G MACs"
        parameters = "" if self.parameters is None else f"{self.parameters / 1e6:.2f} M parameters"
        return ", ".join(filter(None, [macs, parameters]))

    def to_json(self) -> dict[str, Any]:
        """What ``attnbench list`` gives of it in JSON besides the declared facts."""
        return {
            "summary": self.summary,
            "cost": self.cost,
            "parameters": self.parameters,
            "macs": self.macs,
            "pictures": [{"caption": caption, "lines": lines} for caption, lines in self.drawn],
            "certificate": self.certificate,
        }


def entry(spec: MechanismSpec) -> Entry:
    """Read, build and draw one mechanism.

    Raises:
        AttnbenchError: its file does not import.
    """
    # Roles and double backquotes are for Sphinx; a reader of text or Markdown is better off without.
    document = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", inspect.getdoc(spec.load()) or "").replace("``", "`")
    parameters = macs = None
    try:
        with torch.device("meta"):
            model = create_model("swin_t", spec.name, impl="eager")
        parameters = count_parameters(model)
        macs = sum(model.macs(224, 224).values())
    except AttnbenchError:
        pass  # has no formula, or does not fit the layout
    return Entry(
        spec=spec,
        summary=" ".join(document.partition("\n\n")[0].split()),
        cost=_cost(document),
        parameters=parameters,
        macs=macs,
        drawn=pictures(spec),
        certificate=certificates.status(spec),
        code=_paragraph(spec, "Code:"),
        differs=_paragraph(spec, "Differs"),
    )


def render_text(entries: Iterable[Entry]) -> str:
    """The catalogue for a terminal."""
    parts = []
    for item in entries:
        lines = [f"{item.spec.name}: {item.spec.facts.title}", *_wrapped(item.summary, "  ")]
        for heading, text in item.facts().items():
            if text:
                lines += _wrapped(f"{heading + ':':<17}{text}", "  ", hanging=17)
        parts.append("\n".join([*lines, *(f"  {line}".rstrip() for line in side_by_side(item.drawn))]))
    return "\n\n".join(parts) + "\n"


def render_markdown(entries: Sequence[Entry]) -> str:
    """The catalogue as docs/mechanisms.md."""
    head = ("name", "mechanism", "pattern", "complexity", "MACs (G)", "params (M)", "certificate")
    rows = []
    for item in entries:
        name, facts = item.spec.name, item.spec.facts
        macs = "—" if item.macs is None else f"{item.macs / 1e9:.4f}"
        parameters = "—" if item.parameters is None else f"{item.parameters / 1e6:.2f}"
        words = (f"[{name}](#{name})", facts.title, facts.pattern, _power(facts.complexity))
        rows.append([cell or "—" for cell in (*words, macs, parameters, item.certificate)])
    table = markdown.table(head, rows, left=(0, 1, 2, 3, 6))
    sections = [_section(item) for item in entries]
    return "\n".join([_STALE, "# Mechanisms", "", _INTRO, "", table, "", *sections])


def _section(item: Entry) -> str:
    lines = [f"## {item.spec.name}", "", f"**{item.spec.facts.title}.** {item.summary}", ""]
    for heading, text in item.facts().items():
        if not text:
            continue
        if heading == "Paper" and text.startswith("arXiv:"):
            identifier, _, rest = text.partition(", ")
            link = f"[{identifier}](https://arxiv.org/abs/{identifier.removeprefix('arXiv:')})"
            text = f"{link}, {rest}" if rest else link
        text = _power(text) if heading == "Complexity" else text
        lines.append(f"- {heading}: {text}")
    if item.drawn:
        lines += ["", "```text", *side_by_side(item.drawn), "```"]
    return "\n".join([*lines, ""])


def _paragraph(spec: MechanismSpec, begin: str) -> str:
    """What the docstring of a mechanism's file says from a line that begins so, up to the next such line."""
    lines = (inspect.getdoc(inspect.getmodule(spec.load())) or "").splitlines()
    at = next((i for i, line in enumerate(lines) if line.startswith(begin)), len(lines))
    rest = itertools.takewhile(lambda line: not _BEGINS.match(line), lines[at + 1 :])
    text = " ".join([*lines[at : at + 1], *rest]).removeprefix(begin).lstrip(" :")
    return " ".join(text.replace("``", "`").split())


_BEGINS = re.compile(r"(Paper|Code|Settings|Differs\b.*?):|$")


def _cost(document: str) -> str:
    """The sentences after "Cost" in a docstring, up to the next paragraph."""
    for paragraph in document.split("\n\n"):
        lines = paragraph.split("\n")
        for number, line in enumerate(lines):
            if line.startswith("Cost"):
                return " ".join(" ".join(lines[number:]).split()).removeprefix("Cost").lstrip(", :")
    return ""


def _setting(value: Any) -> str:
    parts = value if isinstance(value, (list, tuple)) else [value]
    return ", ".join("none" if part is None else str(part).lower() for part in parts)


def _power(complexity: str) -> str:
    """``O(N^4/3)`` with its exponent raised."""
    base, caret, rest = complexity.partition("^")
    return f"{base}<sup>{rest.removesuffix(')')}</sup>)" if caret else complexity


def _wrapped(text: str, indent: str, hanging: int = 0) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=indent, subsequent_indent=indent + " " * hanging, break_on_hyphens=False
    )
