"""What the README says works as it stands there."""

import json
import re
from pathlib import Path

import pytest
from documents import example

from attnbench import certificates, registry, store, tables
from attnbench.harness.conformance.checks import check_mechanism
from attnbench.tables import render
from attnbench.tables.narrow import as_text

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("isolated_registry")
def test_the_example_passes_its_own_check(tmp_path: Path) -> None:
    path = tmp_path / "my_attention.py"
    path.write_text(example(), encoding="utf-8")
    registry.add_plugin(path)
    failed = [str(result) for result in check_mechanism("row") if result.failed]
    assert not failed


def test_the_example_is_short() -> None:
    assert len(example().splitlines()) <= 40


def test_there_are_two_commands_and_ci_calls_one() -> None:
    commands = re.findall(r"<!-- (main|test) command -->\n```sh\n(.+)\n```", README)
    assert [name for name, _ in commands] == ["main", "test"]
    assert "<!-- test command -->" in (ROOT / ".ci" / "run").read_text()


def test_every_link_leads_somewhere() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_it_fits_a_screen_without_scrolling_sideways() -> None:
    assert max(map(len, README.splitlines())) <= 106, "a Markdown table's last column may run over"
    inside = README.split("<!-- table: begin -->")[1].split("<!-- table: end -->")[0]
    assert max(map(len, inside.splitlines())) <= 100
    assert len(README.splitlines()) <= 80
    assert README.count("![") == 1


def test_its_table_is_what_the_shipped_records_give() -> None:
    records = store.read(ROOT / "results" / "records", pytest.fail)
    table = tables.ablation(records, layout="swin_t")
    assert f"<!-- table: begin -->\n```text\n{as_text(table)}```\n<!-- table: end -->" in README
    shipped = ROOT / "results" / "tables" / "ablation.md"
    assert shipped.read_text(encoding="utf-8") == render.render(table, "md")


def test_shipped_certificates_are_of_the_sources_as_they_are() -> None:
    shipped = sorted((ROOT / "results" / "certificates").glob("*.json"))
    assert shipped
    for path in shipped:
        name, _, options = path.stem.partition("-with-")
        found = json.loads(path.read_text(encoding="utf-8"))
        again = f"run 'attnbench check {name} --out results'{', with its options' if options else ''}"
        assert bool(options) == bool(found["options"])
        assert certificates.is_valid(name, registry.get(name).digest(), None, found["options"]), again
    for path in (ROOT / "results" / "certificates" / "earlier").glob("*.json"):
        found = json.loads(path.read_text(encoding="utf-8"))
        assert path.stem.endswith(f"-{found['digest']}")
        assert found["digest"] != registry.get(found["mechanism"]).digest()
        assert certificates.is_valid(found["mechanism"], found["digest"], None, found["options"])
