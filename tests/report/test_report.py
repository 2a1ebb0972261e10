"""The report: whole in one file, its numbers the records', everything escaped, the same bytes twice."""

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner

from attnbench import AttnbenchError, registry, store, tables
from attnbench.commands.report import command
from attnbench.record import Cell, Measurement
from attnbench.tables import speed

pytest.importorskip("altair")
pytest.importorskip("vl_convert")

from attnbench.report.page import page

ROOT = Path(__file__).parents[2]
RECORDS = store.read(ROOT / "results" / "records", pytest.fail)
EVIL = """<script>alert("x")</script>'"&</script><!--"""


@pytest.fixture(autouse=True, scope="module")
def all_are_equal() -> Iterator[None]:
    """As if a certificate named every implementation, whatever certificates lie about."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "speed_refusal", lambda *_, **__: "")
        yield


class Grid(HTMLParser):
    """The table: sort keys of its cells by row title; and what in the page would load something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: dict[str, list[str]] = {}
        self.loads: list[str] = []
        self.ids: list[str] = []
        self._inside, self._title, self._reading = False, "", False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        facts = dict(attributes)
        if facts.get("id"):
            self.ids.append(str(facts["id"]))
        for name in ("src", "href", "data", "srcset"):
            if facts.get(name) and not str(facts[name]).startswith(("#", "data:")):
                self.loads.append(f"{tag} {name}={facts[name]}")
        self._inside |= tag == "table" and facts.get("id") == "grid"
        if self._inside and tag == "th" and facts.get("scope") == "row":
            self._title, self._reading = "", True
        if self._inside and tag == "td" and "data-sort" in facts:
            self.rows[self._title].append(str(facts["data-sort"] or ""))

    def handle_data(self, data: str) -> None:
        self._title += data if self._reading else ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "th" and self._reading:
            self._reading = False
            self._title = self._title.strip().removesuffix("†").strip()
            self.rows[self._title] = []
        self._inside &= tag != "table"


@pytest.fixture(scope="module")
def text() -> str:
    return page(RECORDS, layout="swin_t")


def test_it_is_one_file_that_loads_nothing(text: str) -> None:
    assert len(text.encode()) < 3 * 2**20
    assert Grid(text).loads == []
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style
    assert "url(" not in style.group(1)
    assert "@import" not in style.group(1)


def test_the_same_records_give_the_same_bytes(text: str) -> None:
    assert page(RECORDS, layout="swin_t") == text


def test_its_numbers_are_the_records(text: str) -> None:
    shown = Grid(text).rows
    table = tables.ablation(RECORDS, layout="swin_t")
    compared = 0
    for (row, column), m in table.measured.items():
        title = registry.get(row).facts.title if row in registry.names() else "Swin-T (timm)"
        if m.value is not None and m.status == "ok":
            value = table.value(row, column)  # of a probe the mean over seeds, else the record's
            assert value == m.value or m.cell.metric == "probe"
            assert repr(float(value)) in shown[title], (row, m.name)
            compared += 1
        if m.details.get("ratio") is not None:
            assert repr(float(m.details["ratio"])) in shown[title]
            assert m.key in text
    assert compared > 300


def test_every_number_leads_to_its_source(text: str) -> None:
    ids = Grid(text).ids
    assert len(ids) == len(set(ids))
    targets = set(re.findall(r'data-record="([^"]+)"', text)) | set(re.findall(r'href="#([^"]+)"', text))
    assert len(targets) > 300
    assert targets <= set(ids)


def test_published_numbers_name_who_trained_them(text: str) -> None:
    assert "trained by CSWin (Table 9)" in text
    assert "published.csv, line" in text


@pytest.mark.usefixtures("isolated_registry")
def test_text_from_plugins_and_records_is_escaped(tmp_path: Path) -> None:
    plugin = tmp_path / "evil.py"
    plugin.write_text(
        "from attnbench import register_mechanism\n\n\n"
        f"@register_mechanism('evil', title={EVIL!r})\nclass Evil:\n    pass\n"
    )
    registry.add_plugin(str(plugin))
    cell = Cell(
        mechanism="evil", layout="swin_t", metric="throughput", mode="infer", precision="fp32",
        resolution=224, machine=EVIL,
    )  # fmt: skip
    details = {
        "ratio": 1.0,
        "ratio_low": 0.9,
        "ratio_high": 1.1,
        "verdict": "cannot tell",
        "baseline": "evil",
    }
    good = Measurement.of(cell, "throughput", 1.0, "images/s", details=details, environment={"x": EVIL})
    bad = Measurement.of(
        cell.model_copy(update={"metric": "memory"}), "memory", None, "", status="failed", reason=EVIL
    )
    counted = Measurement.of(cell.model_copy(update={"metric": "macs"}), "macs", 5, "MACs")
    text = page([counted, bad, good], layout="swin_t")
    assert "alert(" in text
    assert "<script>alert" not in text
    assert text.count("<script") == 3
    assert text.count("</script>") == 3
    specs = re.search(r'<script id="charts" type="application/json">(.*?)</script>', text, re.DOTALL)
    assert specs
    assert EVIL in json.dumps(json.loads(specs.group(1)), ensure_ascii=False).replace('\\"', '"')


def test_records_without_speeds_make_a_report_too() -> None:
    cell = Cell(mechanism="bra", layout="swin_t", metric="params", resolution=224, device="meta")
    text = page([Measurement.of(cell, "parameters", 28_380_000, "parameters")])
    assert "28.38" in text
    assert 'id="speed-part"' not in text, "a part without numbers is left out"


def test_the_command_writes_it(tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    records = str(ROOT / "results" / "records")
    done = CliRunner().invoke(command, ["--records", records, "-o", str(target)])
    assert done.exit_code == 0, done.output
    assert "Attention in swin_t" in target.read_text(encoding="utf-8")
    nowhere = CliRunner().invoke(command, ["--records", records, "-o", str(tmp_path / "no" / "report.html")])
    assert nowhere.exit_code == 2
    assert "there is no folder" in nowhere.output
    absent = CliRunner().invoke(command, ["--records", str(tmp_path / "nothing")])
    assert absent.exit_code == 2
    (tmp_path / "empty").mkdir()
    empty = CliRunner().invoke(command, ["--records", str(tmp_path / "empty"), "-o", str(target)])
    assert isinstance(empty.exception, AttnbenchError)


def test_several_machines_stand_side_by_side() -> None:
    timed = [m for m in RECORDS if m.name == "throughput" and m.cell.layout == "swin_t"]
    here = timed[0].cell.machine
    there = [m.model_copy(update={"cell": m.cell.model_copy(update={"machine": "made up"})}) for m in timed]
    text = page(RECORDS + there)
    assert "Machines side by side" in text
    part = text.partition('id="machines"')[2].partition("</section>")[0]
    assert f'<th scope="col">{here}</th>' in part
    assert '<th scope="col">made up</th>' in part
    assert "Machines side by side" not in page(RECORDS)
