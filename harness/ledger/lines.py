"""The confounder ledger: what two models differ in besides the attention, in lines that add up.

The differences are found by :mod:`attnbench.harness.ledger.differences`; those that are alike over many
blocks become one line here. Parameters and MACs of the lines add up to the whole gap between the models.
"""

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import astuple, dataclass

import torch

from attnbench import markdown
from attnbench.errors import AttnbenchError
from attnbench.harness.counting import macs
from attnbench.harness.counting.parameters import measure as count_parameters
from attnbench.harness.ledger.differences import Difference, compare
from attnbench.harness.ledger.lookup import named


@dataclass(frozen=True)
class Row:
    """Like differences of many places as one: a line of the ledger.

    ``a`` and ``b`` show a range, first … last, where numbers differ between the places.
    """

    where: str
    part: str
    aspect: str
    a: str
    b: str
    parameters: int
    macs: int
    is_attention: bool = False
    """The line is the exchange of the attention itself, which the comparison is about."""


def summarise(differences: Iterable[Difference]) -> list[Row]:
    """The lines of the ledger: the exchange of the attention first, then all that comes with it."""
    groups: dict[tuple[str, ...], list[Difference]] = {}
    for item in differences:
        kinds = (_NUMBER.sub("", item.a), _NUMBER.sub("", item.b))
        groups.setdefault((_kind(item.place), item.part, item.aspect, *kinds), []).append(item)
    rows = [
        Row(
            where=_where([item.place for item in items]),
            part=f"{kind}.{part}".strip("."),
            aspect=aspect,
            a=_range([item.a for item in items]),
            b=_range([item.b for item in items]),
            parameters=sum(item.parameters for item in items),
            macs=sum(item.macs for item in items),
            is_attention=items[0].is_attention,
        )
        for (kind, part, aspect, *_), items in groups.items()
    ]
    return sorted(rows, key=lambda row: not row.is_attention)


_NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?")
_IN_STAGE = re.compile(r"(?:layers|stages)\.(\d+)(?:\.blocks\.(\d+))?\.(.+)")


def of(a: str, b: str, resolution: int) -> tuple[list[Row], dict[str, tuple[int, int]]]:
    """The ledger of two models by name, and the totals of both: parameters, and MACs per image.

    Raises:
        AttnbenchError: there is no such model, its MACs cannot be counted, or the models take other images.
    """
    with torch.device("meta"):
        one, other = (named(name).eval() for name in (a, b))
    channels = {_in_chans(model) for model in (one, other)}
    if len(channels) > 1:
        raise AttnbenchError(f"{a} and {b} take images of different channels: {sorted(channels)}")
    image = torch.zeros(1, channels.pop(), resolution, resolution, device="meta")
    totals = {
        "parameters": (count_parameters(one), count_parameters(other)),
        "macs": (macs.count(one, image), macs.count(other, image)),
    }
    rows = summarise(compare(one, other, image))
    for name, (first, second) in totals.items():
        left = second - first - sum(getattr(row, name) for row in rows)
        if left:  # of what lies in no part: functions called in a forward, say
            more = {name: left}
            rows.append(
                Row("model", "outside of all parts", name, "", "", **{"parameters": 0, "macs": 0} | more)
            )
    return rows, totals


def render(rows: list[Row], totals: dict[str, tuple[int, int]], names: tuple[str, str], form: str) -> str:
    """The ledger as Markdown or CSV."""
    head = ["where", "part", "what", *names, "parameters", "MACs"]
    if form == "csv":
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows([head, *(astuple(row)[:7] for row in rows)])
        return out.getvalue()
    cells = []
    for row in rows:
        gaps = (f"{gap:+,}" if gap else "" for gap in (row.parameters, row.macs))
        what = "**attention**" if row.is_attention and row.aspect == "module" else row.aspect
        cells.append((row.where, row.part, what, row.a or "—", row.b or "—", *gaps))
    (pa, pb), (ma, mb) = totals["parameters"], totals["macs"]
    cells.append(("", "**total**", "parameters", f"{pa:,}", f"{pb:,}", f"{pb - pa:+,}", ""))
    cells.append(("", "**total**", "multiply-adds", f"{ma:,}", f"{mb:,}", "", f"{mb - ma:+,}"))
    return f"# {names[0]} beside {names[1]}\n\n{markdown.table(head, cells, left=range(5))}\n"


def _in_chans(model: torch.nn.Module) -> int:
    first = next(p for name, p in model.named_parameters() if p.ndim == 4)
    return int(first.shape[1])


def _kind(place: str) -> str:
    match = _IN_STAGE.fullmatch(place)
    return match[3] if match else place


def _where(places: list[str]) -> str:
    """``stages 1, 2: 4 blocks``; ``model`` for parts outside of stages."""
    found = [match for match in map(_IN_STAGE.fullmatch, places) if match]
    if not found:
        return "model"
    stages = sorted({int(match[1]) + 1 for match in found})
    blocks = {(match[1], match[2]) for match in found if match[2] is not None}
    text = f"stage{'s' if len(stages) > 1 else ''} {', '.join(map(str, stages))}"
    return f"{text}: {len(blocks)} block{'s' if len(blocks) > 1 else ''}" if blocks else text


def _range(texts: list[str]) -> str:
    """Texts that differ in their numbers only, as one: each number that varies as first…last."""
    numbers = list(zip(*(_NUMBER.findall(text) for text in texts), strict=True))
    shown = iter([n[0] if len(set(n)) == 1 else f"{n[0]}…{n[-1]}" for n in numbers])
    return _NUMBER.sub(lambda _: next(shown), texts[0])
