"""What the README says works as it stands there."""

import re
from pathlib import Path

import pytest

from attnbench import certificates, registry, store, tables
from attnbench.harness.conformance.checks import check_mechanism
from attnbench.tables import render

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def example() -> str:
    found = re.search(r"```python\n(# my_attention.py\n.*?)```", README, flags=re.DOTALL)
    assert found
    return found.group(1)


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


def test_its_table_is_what_the_shipped_records_give() -> None:
    records = store.read(ROOT / "results" / "records", pytest.fail)
    text = render.render(tables.ablation(records, layout="swin_t"), "md")
    assert f"<!-- table: begin -->\n{text}<!-- table: end -->" in README
    assert (ROOT / "results" / "tables" / "ablation.md").read_text(encoding="utf-8") == text


def test_shipped_certificates_are_of_the_sources_as_they_are() -> None:
    shipped = sorted((ROOT / "results" / "certificates").glob("*.json"))
    assert shipped
    for path in shipped:
        digest = registry.get(path.stem).digest()
        again = f"run 'attnbench check {path.stem} --out results'"
        assert certificates.is_valid(path.stem, digest), again
