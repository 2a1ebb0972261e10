"""The table that fits: at most 100 columns, whatever is in it, and with everything on request."""

from pathlib import Path

import pytest

from attnbench import UnknownNameError, store, tables
from attnbench.record import Cell, Measurement
from attnbench.tables import speed
from attnbench.tables.grid import grid
from attnbench.tables.narrow import WIDTH, as_text, narrow
from attnbench.tables.paper_table import rebuilt
from attnbench.tables.papers import PAPER_TABLES
from attnbench.tables.preview import Preview

HERE = Path(__file__).parent.parent
SHIPPED = store.read(HERE.parent / "results" / "records", pytest.fail)


@pytest.fixture(autouse=True)
def all_are_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a certificate named every implementation, whatever certificates lie about."""
    monkeypatch.setattr(speed, "speed_refusal", lambda *_, **__: "")


def fixed() -> tables.Table:
    records = store.read(HERE / "records" / "schema_1.jsonl", pytest.fail)
    return tables.ablation(records, certified=lambda name, *_: name != "full_of_it")


def test_it_is_byte_for_byte_the_same(request: pytest.FixtureRequest) -> None:
    golden = HERE / "tables" / "ablation.text"
    if request.config.getoption("--refresh-tables"):
        golden.write_text(as_text(fixed()), encoding="utf-8")
    assert as_text(fixed()) == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["ablation", *PAPER_TABLES])
def test_every_table_fits(name: str) -> None:
    table = tables.ablation(SHIPPED) if name == "ablation" else rebuilt(PAPER_TABLES[name], SHIPPED)
    lines = as_text(table).splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert all(line == line.rstrip() for line in lines)


def test_all_modes_and_their_verdicts_are_shown() -> None:
    text = as_text(tables.ablation(SHIPPED, layout="swin_t"))
    heading = text.split("\n\n", 1)[1].splitlines()[:3]
    assert "Memory, MiB" in heading[0]
    assert "Speed / Swin-T (timm)" in heading[0]
    assert heading[2].split()[3:9] == ["FP32", "FP32", "FP32", "AMP", "FP32", "AMP"]
    assert {"▲", "▼", "="} <= set(text)


def test_a_sign_is_the_records_verdict() -> None:
    table = tables.ablation(SHIPPED, layout="swin_t")
    found = grid(table)
    signs = {"faster": "▲", "slower": "▼", "cannot tell": "="}
    seen = set()
    for (row, name), m in table.measured.items():
        if name == "images_per_s_infer_fp32" and m.details["verdict"] in signs:
            text = found.cell(row, "ratio_infer_fp32").text
            assert text == f"{m.details['ratio']:.2f} {signs[m.details['verdict']]}"
            seen.add(m.details["verdict"])
    assert "slower" in seen


def test_all_columns_or_those_named() -> None:
    table = fixed()
    wide = as_text(table, wide=True)
    assert "Images/s" in wide
    assert "more columns" not in wide
    two = as_text(table, columns=["macs", "parameters"]).splitlines()
    assert two[3].split() == ["Attention", "G", "M"]
    with pytest.raises(UnknownNameError, match="did you mean parameters"):
        as_text(table, columns=["parameter"])


def test_what_has_no_number_says_why_in_a_word() -> None:
    cell = Cell(
        mechanism="full", layout="swin_t", metric="memory", mode="infer", precision="fp32", resolution=224
    )
    failed = Measurement.of(cell, "memory", None, "", status="out_of_memory", reason="asked for 9 GiB")
    text = as_text(tables.ablation([failed]))
    assert "OOM" in text
    assert "--explain ROW COLUMN" in text


def test_what_is_still_to_come_is_not_what_is_missing(tmp_path: Path) -> None:
    counts = [
        Measurement.of(_cell("bra", "params"), "parameters", 28_380_000, "parameters"),
        Measurement.of(_cell("bra", "macs"), "macs", 4_574_000_000, "MACs"),
    ]
    chosen = {"mechanisms": ("bra",), "metrics": ("params", "macs", "memory"), "layout": "swin_t"}
    chosen |= {"resolution": 224, "modes": ("infer",), "precisions": ("fp32",), "baseline": "timm_swin"}
    preview = Preview(tmp_path, chosen, "cpu")
    assert preview.text() == ""
    store.append(tmp_path / "here.jsonl", counts[:1])
    assert preview.text() == "", "counts are not in yet"
    store.append(tmp_path / "here.jsonl", counts[1:])
    assert "·" in preview.text()
    assert "Memory, MiB" in preview.text()
    memory = _cell("bra", "memory").model_copy(update={"mode": "infer", "precision": "fp32", "device": "cpu"})
    store.append(tmp_path / "here.jsonl", [Measurement.of(memory, "peak_memory", 2**27, "bytes")])
    line = next(line for line in preview.text().splitlines() if line.startswith("Bi-level"))
    assert "128" in line
    assert "·" not in line


def test_long_names_are_cut_and_marked() -> None:
    cell = _cell("bra", "params").model_copy(update={"options": {"topk": [1, 4, 16, None], "num_regions": 7}})
    table = tables.ablation([Measurement.of(cell, "parameters", 1, "parameters")], certified=lambda *_: False)
    text = narrow(grid(table), table)
    assert "… †" in text
    assert "† Uncertified" in text


def _cell(mechanism: str, metric: str) -> Cell:
    return Cell(mechanism=mechanism, layout="swin_t", metric=metric, resolution=224, device="meta")
