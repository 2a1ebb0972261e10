"""The catalogue: up to date in docs, complete, and with pictures that show what the pattern is."""

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from documents import cells
from torch import Tensor, nn

from attnbench import Site, get, names, register_mechanism
from attnbench.__main__ import cli
from attnbench.harness import catalogue
from attnbench.harness.pattern_pictures import QUERY, draw, pictures, side_by_side

DOCUMENT = Path(__file__).parents[2] / "docs" / "mechanisms.md"
ROW, COLUMN = QUERY


@pytest.fixture(scope="module")
def entries() -> list[catalogue.Entry]:
    return [catalogue.entry(get(name)) for name in names()]


def test_document_is_up_to_date(entries: list[catalogue.Entry]) -> None:
    text = catalogue.render_markdown(entries)
    stale = "docs/mechanisms.md is stale; run 'attnbench catalogue --output docs/mechanisms.md'"
    assert text == DOCUMENT.read_text(encoding="utf-8"), stale


def test_every_entry_is_complete(entries: list[catalogue.Entry]) -> None:
    for entry in entries:
        facts = entry.facts()
        missing = [heading for heading in facts if not facts[heading]]
        assert set(missing) <= {"Settings", "Certificate", "Golden cases", "Differs"}, (
            entry.spec.name,
            missing,
        )
        assert entry.drawn
        assert "`" not in "".join(line for _, lines in entry.drawn for line in lines)
        assert ":class:" not in entry.cost + entry.summary


def test_text_has_one_part_per_mechanism_and_fits_a_terminal(entries: list[catalogue.Entry]) -> None:
    text = catalogue.render_text(entries)
    heads = [part.splitlines()[0] for part in text.split("\n\n")]
    assert heads == [f"{entry.spec.name}: {entry.spec.facts.title}" for entry in entries]
    assert max(map(len, text.splitlines())) <= catalogue.WIDTH


def test_drawing() -> None:
    seen = torch.zeros(5, 14, dtype=torch.bool)
    seen[0, 0] = seen[1, 1] = seen[2:4, 2] = seen[4, 3] = True
    assert draw(seen) == [
        "          ▾",
        " ┌──────────────┐",
        " │▀▄            │",
        " │  █           │",
        "▸│   ▀          │",
        " └──────────────┘",
    ]


def black(lines: list[str]) -> Tensor:
    """The picture read back: (14, 14) bool."""
    cells = [line[2:-1] for line in lines[2:-1]]
    assert lines[2 + ROW // 2].startswith("▸")
    assert lines[0].index("▾") == COLUMN + 2
    upper, lower = (torch.tensor([[c in ink for c in row] for row in cells]) for ink in ("█▀", "█▄"))
    return torch.stack((upper, lower), dim=1).flatten(0, 1)


@pytest.mark.parametrize("name", names())
def test_pictures_agree_with_what_is_declared(name: str) -> None:
    spec = get(name)
    for caption, lines in pictures(spec):
        stage = 0 if "stage 1" in caption else 2
        module = spec.build(Site(384 if stage else 96, 12 if stage else 3, 14, 14, stage, "odd" in caption))
        allowed = module.support(14, 14)[ROW * 14 + COLUMN].view(14, 14)
        seen = black(lines)
        assert torch.equal(seen, allowed) or (spec.facts.pattern != "static" and seen.any())
        assert not (seen & ~allowed).any()


def test_pictures_of_routing_show_whole_regions() -> None:
    (_, first), (_, third) = pictures(get("bra"))
    for lines, topk in ((first, 1), (third, 16)):
        regions = black(lines).view(7, 2, 7, 2).transpose(1, 2).flatten(2)
        whole = int(regions.all(-1).sum())
        assert topk <= whole <= topk + 4  # the depth-wise term of 5 × 5 covers up to four more


def test_pictures_beside_each_other() -> None:
    two = [("a", ["xx", "yy"]), ("long caption", ["zz"])]
    assert side_by_side(two) == [" a    long caption", "xx   zz", "yy"]
    assert side_by_side([]) == []


@pytest.mark.usefixtures("isolated_registry")
def test_a_mechanism_that_declares_little_is_listed() -> None:
    @register_mechanism("little")
    class Little(nn.Module):
        def __init__(self, site: Site) -> None:
            super().__init__()

        def forward(self, x: Tensor) -> Tensor:
            return x

    entry = catalogue.entry(get("little"))
    assert (entry.macs, entry.drawn, entry.cost) == (None, [], "")
    assert catalogue.render_text([entry]).splitlines()[0] == "little: little"
    (row,) = (
        line for line in catalogue.render_markdown([entry]).splitlines() if line.startswith("| [little]")
    )
    assert cells(row)[:5] == ["[little](#little)", "little", *"———"]


def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attnbench.registry.names", lambda: ["full", "identity"])
    run = CliRunner().invoke
    page = str(tmp_path / "page.md")
    assert run(cli, ["catalogue", "--output", page, "--check"]).exit_code == 1
    assert run(cli, ["catalogue", "--output", page]).exit_code == 0
    assert run(cli, ["catalogue"]).output == Path(page).read_text(encoding="utf-8")
    assert run(cli, ["catalogue", "--output", page, "--check"]).exit_code == 0
    Path(page).write_text("stale", encoding="utf-8")
    assert run(cli, ["catalogue", "--output", page, "--check"]).exit_code == 1
    listed = run(cli, ["list", "--long"]).output
    assert "full: Full" in listed
    assert "│██████████████│" in listed
    assert '"macs": 8783324160' in run(cli, ["list", "--long", "--format", "json"]).output
