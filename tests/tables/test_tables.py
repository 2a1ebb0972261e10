"""Tables from fixed records, byte for byte. Refresh with ``pytest --refresh-tables`` and read the diff."""

import csv
import io
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from attnbench import AttnbenchError, UnknownNameError, store, tables
from attnbench.record import Cell, Measurement
from attnbench.tables import render, speed

HERE = Path(__file__).parents[1]
RECORDS = store.read(HERE / "records" / "schema_1.jsonl", pytest.fail)


@pytest.fixture(autouse=True)
def all_are_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a certificate named every implementation, whatever certificates lie about."""
    monkeypatch.setattr(speed, "speed_refusal", lambda *_, **__: "")


def ablation(records: list[Measurement], **conditions: Any) -> tables.Table:
    """The table, where all but one mechanism are certified, whatever certificates lie about."""
    certified = conditions.pop("certified", lambda name, *_: name != "full_of_it")
    return tables.ablation(records, certified=certified, **conditions)


@pytest.mark.parametrize("form", render.FORMATS)
def test_table_is_byte_for_byte_the_same(form: str, request: pytest.FixtureRequest) -> None:
    text = render.render(ablation(RECORDS), form)
    golden = HERE / "tables" / f"ablation.{form}"
    if request.config.getoption("--refresh-tables"):
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


def test_csv_has_raw_integers_one_row_a_mechanism() -> None:
    rows = list(csv.DictReader(io.StringIO(render.render(ablation(RECORDS), "csv"))))
    assert [row["mechanism"] for row in rows] == [
        "shifted_window",
        "bra",
        "full_of_it",
        "hidden_%_product",
    ]
    assert rows[0]["parameters"] == "28288354"
    assert rows[1]["macs"] == "4573912320"
    assert rows[2]["macs"] == ""
    assert rows[0]["peak_memory_train_fp32_bytes"] == "105000000"


def test_published_stands_beside_and_is_marked() -> None:
    table = ablation(RECORDS)
    assert table.raw.loc["bra", "published_top1"] == 82.7
    assert table.raw.loc["bra", "published_miou"] == 44.8
    assert any("Not measured by attnbench" in note for note in table.notes)


def test_a_published_figure_that_does_not_fit_has_its_reason() -> None:
    table = ablation(RECORDS)
    number = table.marks["shifted_window", "published_params"]
    assert "Swin Table 1 prints 29: counted in the official model too" in table.notes[number - 1]
    assert ("bra", "published_params") in table.marks  # the fixed records say 28.29, the authors 28.4
    assert ("bra", "published_macs") not in table.marks


def test_a_row_without_a_certificate_is_marked() -> None:
    table = ablation(RECORDS)
    assert table.raw["certified"].to_dict() == {name: name != "full_of_it" for name in table.raw.index}
    number = table.marks["full_of_it", "mechanism"]
    assert table.notes[number - 1].startswith("Uncertified")
    assert f"| full_of_it [{number}]" in render.render(table, "md")
    assert "Uncertified" not in render.render(ablation(RECORDS, certified=lambda *_: True), "md")


def test_a_certificate_is_of_the_source_and_the_options_that_were_measured() -> None:
    cell = Cell(
        mechanism="bra", layout="swin_t", metric="params", resolution=224, device="meta", source="new"
    )
    with_options = cell.model_copy(update={"options": {"topk": 1}, "source": "old"})
    records = [Measurement.of(c, "parameters", 1, "parameters") for c in (cell, with_options)]
    raw = ablation(records, certified=lambda name, source, options: source == "new").raw
    assert raw["certified"].to_list() == [True, False]
    raw = ablation(records, certified=lambda name, source, options: not options).raw
    assert raw["certified"].to_list() == [True, False]
    raw = ablation(records, certified=lambda *_: True).raw  # checked with these options as well
    assert raw["certified"].to_list() == [True, True]
    assert (
        not ablation(records[:1], certified=lambda name, source, options: source == "old")
        .raw["certified"]
        .any()
    )


def test_failure_is_a_dash_with_a_footnote() -> None:
    text = render.render(ablation(RECORDS), "md")
    row = next(line for line in text.splitlines() if line.startswith("| full_of_it"))
    assert "— [2]" in row
    assert "[2] failed: full_of_it has no method macs" in text
    assert "out of memory: OutOfMemoryError" in text


def test_speed_of_an_implementation_not_known_to_equal_eager_is_a_dash(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cell = Cell(
        mechanism="bra",
        layout="swin_t",
        metric="throughput",
        mode="infer",
        precision="amp",
        resolution=224,
        source="new",
    )
    fields: dict[str, Any] = {"implementation": "eager+fused", "samples": [5.0, 7.0]}
    record = Measurement.of(cell, "throughput", 6.0, "images/s", **fields)
    assert "6.0" in render.render(ablation([record]), "md")
    monkeypatch.setattr(speed, "speed_refusal", lambda *asked, **options: f"unknown: {asked}")
    text = render.render(ablation([record]), "md")
    assert "6.0" not in text
    assert "unknown: ('bra', 'new', 'eager+fused', 'cpu', 'amp')" in text
    reference = record.model_copy(update={"cell": cell.model_copy(update={"mechanism": "timm_swin"})})
    assert "6.0" in render.render(ablation([reference]), "md")


def test_lower_bound_is_never_a_number() -> None:
    table = ablation(RECORDS)
    assert table.raw.loc["hidden_%_product", "macs_lower_bound"] == "liar::twice triton::kernel"
    for form, sign in {"md": "≥", "html": "≥", "latex": r"$\geq$"}.items():
        assert f"{sign} 3.3000" in render.render(table, form)


def test_other_conditions_are_left_out_and_counted() -> None:
    table = ablation(RECORDS)
    assert table.raw.loc["bra", "images_per_s_infer_fp32"] == 11.0
    assert "1 older records under other conditions are not shown." in table.notes


def test_newest_value_of_a_cell_wins() -> None:
    cell = Cell(mechanism="bra", layout="swin_t", metric="params", resolution=224, device="meta")
    newer = Measurement.of(cell, "parameters", 7, "parameters", created="2027-01-01T00:00:00+00:00")
    assert ablation([*RECORDS, newer]).raw.loc["bra", "parameters"] == 7


def test_choosing_conditions() -> None:
    with pytest.raises(UnknownNameError, match="layout among the records"):
        ablation(RECORDS, layout="swin_x")
    with pytest.raises(AttnbenchError, match="no record fits"):
        ablation([])
    assert "images_per_s_infer_fp32" not in ablation(RECORDS, device="cuda").raw


def test_latex_escapes_what_latex_would_read() -> None:
    text = render.render(ablation(RECORDS), "latex")
    assert r"50\% | of it" in text
    assert r"more\_than" in text
    assert r"\toprule" in text


def test_latex_compiles(tmp_path: Path) -> None:
    if (
        shutil.which("pdflatex") is None
        or subprocess.run(["kpsewhich", "booktabs.sty"], check=False).returncode
    ):
        pytest.skip("pdflatex with booktabs is not installed")
    body = render.render(ablation(RECORDS), "latex")
    preamble = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n"
    (tmp_path / "t.tex").write_text(preamble + body + "\\end{document}\n", encoding="utf-8")
    subprocess.run(["pdflatex", "-interaction=nonstopmode", "t.tex"], cwd=tmp_path, check=True)


def test_a_reference_stands_beside_whatever_implementation_was_asked_for() -> None:
    def measured(mechanism: str, impl: str, value: float) -> Measurement:
        cell = Cell(
            mechanism=mechanism,
            layout="swin_t",
            metric="memory",
            mode="infer",
            precision="fp32",
            resolution=224,
            impl=impl,
        )
        return Measurement.of(cell, "peak_memory", value, "bytes", implementation=impl)

    table = tables.ablation([measured("bra", "fused", 1.0), measured("timm_swin", "auto", 2.0)])
    assert table.raw["peak_memory_infer_fp32_bytes"].to_dict() == {"bra": 1.0, "timm_swin": 2.0}
