"""The papers' tables: published beside measured, gaps, letters, conditions, and where a cell comes from."""

import cProfile
import csv
import io
import math
import pstats
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from command_line import call

from attnbench import UnknownNameError, store
from attnbench.commands import table as table_command
from attnbench.configurations import CONFIGURATIONS
from attnbench.record import Cell, Measurement
from attnbench.tables import ablation, render
from attnbench.tables.dense_table import DENSE_TABLES
from attnbench.tables.paper_table import commands, missing_static, rebuilt
from attnbench.tables.papers import NAMES, PAPER_TABLES
from attnbench.tables.provenance import explain, is_missing, record_of

STATE = {"threads": 2, "allocator": {"mmap_max": 0}, "tf32_matmul": False, "tf32_cudnn": False}


def cell(configuration: str, metric: str, **fields: Any) -> Cell:
    layout, mechanism, options = CONFIGURATIONS[configuration]
    facts: dict[str, Any] = {"resolution": 224, "layout": layout, "mechanism": mechanism, "source": "abc"}
    if metric in ("params", "macs"):
        facts["device"] = "meta"
    else:
        facts |= {
            "mode": "infer",
            "precision": "fp32",
            "machine": "test",
            "torch": "2.15.0",
            "preset": "quick",
        }
    return Cell(**facts | fields, metric=metric, options=dict(options))


def params(configuration: str, value: int) -> Measurement:
    return Measurement.of(cell(configuration, "params"), "parameters", value, "parameters")


def macs(configuration: str, value: int) -> Measurement:
    return Measurement.of(cell(configuration, "macs"), "macs", value, "MACs")


def speed(configuration: str, samples: list[float], group: str = "g", **fields: Any) -> Measurement:
    conditions = fields.pop("conditions", {})
    details = {"group": group, **fields.pop("details", {})}
    value = sorted(samples)[len(samples) // 2]
    return Measurement.of(
        cell(configuration, "throughput", **conditions),
        "throughput",
        value,
        "images/s",
        samples=samples,
        details=details,
        environment=fields.pop("environment", STATE),
        **fields,
    )


STL = [params("biformer_stl", 28_372_552), macs("biformer_stl", 4_573_874_496)]


@pytest.mark.parametrize("name", PAPER_TABLES)
@pytest.mark.parametrize("form", render.FORMATS)
def test_every_table_is_built_without_a_record(name: str, form: str) -> None:
    text = render.render(rebuilt(PAPER_TABLES[name], []), form)
    assert "Swin-T (timm)" in text or "timm_swin" in text


@pytest.mark.parametrize(
    ("name", "rows"),
    [("table1", 4), ("table5", 10), ("table6", 6), ("table7", 5), ("figure1", 4), ("classification", 28)],
)
def test_a_table_has_the_papers_rows_and_the_baseline(name: str, rows: int) -> None:
    table = rebuilt(PAPER_TABLES[name], [])
    assert len(table.raw) == rows
    assert table.raw.index[-1] == "timm_swin"


def test_published_numbers_are_shown_as_printed() -> None:
    text = render.render(rebuilt(PAPER_TABLES["table5"], []), "csv")
    rows = {row["row"]: row for row in csv.DictReader(io.StringIO(text))}
    assert rows["criss_cross"]["published_miou"] == "43.0"  # not 43
    assert rows["sliding_window"]["published_miou"] == ""
    assert rows["dat_t"]["trained_by"] == "DAT"


def test_gap_is_measured_less_printed_and_marked_where_it_does_not_round() -> None:
    table = rebuilt(PAPER_TABLES["table6"], [*STL, params("biformer_s", 25_536_232)])
    assert table.raw.loc["biformer_stl", "gap_params"] == pytest.approx(28.372552 - 29)
    assert table.raw.loc["biformer_stl", "gap_macs"] == pytest.approx(-0.026, abs=1e-3)
    assert ("biformer_stl", "gap_params") in table.marks  # 28.37 is not 29
    assert ("biformer_stl", "gap_macs") not in table.marks
    assert ("biformer_s", "gap_params") not in table.marks
    assert math.isnan(table.raw["gap_macs"].astype(float)["biformer_s"])
    assert "-0.63 [" in render.render(table, "md")


def test_a_measured_cell_that_does_not_exist_names_the_command() -> None:
    table = rebuilt(PAPER_TABLES["table6"], STL)
    text = render.render(table, "md")
    assert "'attnbench table table6 --fill'" in text
    assert "attnbench run --layout biformer_deeper --mechanisms bra --metrics memory,throughput" in text
    assert missing_static(table, ["biformer_stl", "biformer_deeper"]) == ["biformer_deeper"]


def test_commands_put_what_differs_in_the_mechanism_only_in_one() -> None:
    spec = PAPER_TABLES["table5"]
    assert commands(spec, ["swin_t", "criss_cross"], "memory") == [
        "attnbench run --layout swin_t --mechanisms shifted_window,criss_cross --metrics memory"
    ]
    (one,) = commands(PAPER_TABLES["table7"], ["stl_s8_4_2_1_k2_2_2_1"], "throughput", "my out")
    assert "--set 'num_regions=[8, 4, 2, 1]' --set 'topk=[2, 2, 2, 1]'" in one
    assert one.endswith("--out 'my out'")


def test_a_record_belongs_to_the_row_of_its_layout_and_options() -> None:
    row = "stl_s7_k1_2_8_32"
    line = params(row, 28_377_160).model_dump_json()  # options are lists once they have been written
    table = rebuilt(PAPER_TABLES["table7"], [Measurement.model_validate_json(line), *STL])
    assert table.raw["parameters"].dropna().to_dict() == {row: 28_377_160}


def test_models_we_do_not_have_say_so() -> None:
    table = rebuilt(PAPER_TABLES["classification"], [])
    assert table.notes[table.marks["resnet18", "mechanism"] - 1].startswith("Not a model of attnbench")
    assert ("biformer_s", "mechanism") not in table.marks


def test_rows_under_other_conditions_are_not_in_the_column_and_say_so() -> None:
    batch_1 = speed("swin_t", [10.0], created="2026-01-01T00:00:00+00:00")
    batch_8 = speed("biformer_stl", [20.0], conditions={"batch_size": 8}, created="2026-01-02T00:00:00+00:00")
    raw_and_notes = rebuilt(PAPER_TABLES["table5"], [batch_1, batch_8])
    column = raw_and_notes.raw["images_per_s_infer_fp32"]
    assert column.dropna().to_dict() == {"biformer_stl": 20.0}
    note = raw_and_notes.notes[raw_and_notes.marks["swin_t", "images_per_s_infer_fp32"] - 1]
    assert note.startswith("only under other conditions: throughput at batch 1")
    assert any(
        "throughput at batch 8" in note and note.startswith("Conditions") for note in raw_and_notes.notes
    )


@pytest.mark.parametrize(
    ("conditions", "environment", "named"),
    [
        ({"torch": "2.11.0"}, STATE, "torch 2.11.0"),
        ({"machine": "other"}, STATE, "on other"),
        ({"impl": "sdpa"}, STATE, "impl sdpa"),
        ({}, {**STATE, "threads": 1}, "1 threads"),
        ({}, {**STATE, "allocator": {}}, "allocator as it comes"),
        ({"device": "cuda"}, {**STATE, "tf32_matmul": True}, "TF32 for matmul"),
    ],
)
def test_what_differs_keeps_rows_apart(
    conditions: dict[str, str], environment: dict[str, Any], named: str
) -> None:
    one = speed("swin_t", [10.0], created="2026-01-02T00:00:00+00:00")
    other = speed("criss_cross", [20.0], conditions=conditions, environment=environment, created="2026-01-01")
    table = rebuilt(PAPER_TABLES["table5"], [other, one])
    assert table.raw["images_per_s_infer_fp32"].dropna().to_dict() == {"swin_t": 10.0}
    assert named in table.notes[table.marks["criss_cross", "images_per_s_infer_fp32"] - 1]


FAST, SLOW = [20.0, 20.4, 19.8, 20.2, 20.1, 19.9, 20.3, 20.0], [10.0, 10.2, 9.9, 10.1, 10.0, 9.8, 10.2, 10.0]
ALIKE = [20.1, 20.3, 19.9, 20.1, 20.2, 19.8, 20.4, 19.9]


def test_letters_and_ratios_stand_beside_throughput() -> None:
    ratio = {
        "baseline": "timm_swin",
        "ratio": 2.0,
        "ratio_low": 1.98,
        "ratio_high": 2.02,
        "verdict": "faster",
    }
    records = [
        speed("swin_t", FAST, details=ratio),
        speed("biformer_stl", ALIKE),
        speed("criss_cross", SLOW),
    ]
    table = rebuilt(PAPER_TABLES["table5"], records)
    found = table.raw["letters_infer_fp32"].dropna().to_dict()
    assert found == {"swin_t": "a", "biformer_stl": "a", "criss_cross": "b"}
    assert table.raw.loc["swin_t", "speed_infer_fp32"] == "2.000 [1.980, 2.020] faster"
    assert table.raw.loc["swin_t", "ratio_high_infer_fp32"] == 2.02
    assert any(note.startswith("Letters:") for note in table.notes)


def test_rows_of_another_group_are_not_compared() -> None:
    records = [
        speed("dat_t", FAST, group="old", created="2026-01-01T00:00:00+00:00"),
        speed("swin_t", FAST, created="2026-01-02T00:00:00+00:00"),
        speed("criss_cross", SLOW, created="2026-01-02T00:00:00+00:00"),
        speed("cross_shaped", SLOW[:5], created="2026-01-02T00:00:00+00:00"),
    ]
    table = rebuilt(PAPER_TABLES["table5"], records)
    assert table.raw["letters_infer_fp32"].dropna().to_dict() == {"swin_t": "a", "criss_cross": "b"}
    notes = {
        row: table.notes[table.marks[row, "letters_infer_fp32"] - 1] for row in ("dat_t", "cross_shaped")
    }
    assert "another group of blocks" in notes["dat_t"]
    assert any(note.startswith("Images/s infer FP32: of 2 groups of blocks") for note in table.notes)
    assert "another number of blocks" in notes["cross_shaped"]


def test_rows_of_a_group_each_have_no_letters_and_a_note() -> None:
    records = [speed("swin_t", FAST, group="one"), speed("criss_cross", SLOW, group="two")]
    table = rebuilt(PAPER_TABLES["table5"], records)
    assert "letters_infer_fp32" not in table.raw
    assert any("of 2 groups of blocks" in note for note in table.notes)


def test_the_largest_batch_is_told_row_by_row() -> None:
    largest = {"regime": "largest", "batch_size": 0}
    records = [
        speed("swin_t", FAST, conditions=largest, details={"batch_size": 96}),
        speed("criss_cross", SLOW, conditions=largest, details={"batch_size": 40}),
        speed("swin_t", SLOW),
    ]
    table = rebuilt(PAPER_TABLES["table5"], records)
    marks = {row: table.marks[row, "images_per_s_infer_fp32_largest"] for row in ("swin_t", "criss_cross")}
    assert [table.notes[number - 1] for number in marks.values()] == ["batch 96", "batch 40"]
    assert table.raw.loc["swin_t", "images_per_s_infer_fp32"] == 10.0


def test_a_missing_sample_moves_no_median_and_no_letter() -> None:
    """Zeros that stand for blocks without a sample are left out of the pairs, and are no speed."""
    with_hole = [0.0, *FAST[1:]]
    whole = rebuilt(PAPER_TABLES["table5"], [speed("swin_t", FAST), speed("criss_cross", SLOW)])
    holed = rebuilt(PAPER_TABLES["table5"], [speed("swin_t", with_hole), speed("criss_cross", SLOW)])
    for table in (whole, holed):
        assert table.raw["letters_infer_fp32"].dropna().to_dict() == {"swin_t": "a", "criss_cross": "b"}


def test_a_failed_cell_is_a_dash_that_moves_nothing() -> None:
    failed = Measurement.of(
        cell("swin_t", "throughput"), "throughput", None, "", status="failed", reason="no", environment=STATE
    )
    table = rebuilt(PAPER_TABLES["table5"], [failed, speed("criss_cross", SLOW), speed("dat_t", FAST)])
    column = table.raw["images_per_s_infer_fp32"]
    assert column.dropna().to_dict() == {"criss_cross": 10.0, "dat_t": 20.1}
    assert column.median() == pytest.approx(15.05)
    assert table.notes[table.marks["swin_t", "images_per_s_infer_fp32"] - 1] == "failed: no"


def test_figure_1_compares_ratios_since_the_hardware_differs() -> None:
    conditions = {"precision": "fp32", "mode": "train"}
    records = [
        speed("swin_t", [200.0], conditions=conditions),
        speed("quadtree_stl", [50.0], conditions=conditions),
    ]
    table = rebuilt(PAPER_TABLES["figure1"], records)
    assert table.raw.loc["quadtree_stl", "relative_train_fp32"] == 0.25
    assert table.raw.loc["quadtree_stl", "published_relative_train_fp32"] == pytest.approx(27.5 / 218.7)
    assert table.raw.loc["quadtree_stl", "gap_relative_train_fp32"] == pytest.approx(0.25 - 27.5 / 218.7)


def test_explain_tells_of_both_sides_of_a_gap() -> None:
    table = rebuilt(PAPER_TABLES["table6"], STL)
    text = explain(table, "baseline (swin-t layout)", "gap_params")
    assert "measured by attnbench: 28372552 parameters" in text
    assert f"record: key {STL[0].key}" in text
    assert "published: 29 M, in BiFormer Table 6" in text
    assert record_of(table, "biformer_stl", "gap_params") == STL[0]
    assert not is_missing(table, "biformer_stl", "parameters")
    assert is_missing(table, "biformer_deeper", "Params (M)")


def test_explain_tells_who_trained_a_published_accuracy() -> None:
    text = explain(rebuilt(PAPER_TABLES["table5"], []), "swin_t", "published_miou")
    assert "trained by: CSWin (Table 9), from Twins" in text
    assert "head: Semantic FPN" in text
    assert "schedule: ADE20K, 80k iterations" in text


def test_explain_of_the_ablation_table() -> None:
    records = store.read(Path(__file__).parents[1] / "records" / "schema_1.jsonl", pytest.fail)
    text = explain(ablation(records), "Shifted window", "Images/s infer FP32")
    assert "measured by attnbench: 10.0 images/s" in text
    assert "throughput at batch 2, preset quick" in text


@pytest.mark.parametrize(
    ("row", "column", "message"), [("baselin", "macs", "row"), ("timm_swin", "mac", "column")]
)
def test_explain_of_what_is_not_there(row: str, column: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=f"unknown {message}"):
        explain(rebuilt(PAPER_TABLES["table6"], []), row, column)


@pytest.mark.skipif(
    shutil.which("pdflatex") is None
    or bool(subprocess.run(["kpsewhich", "booktabs.sty"], check=False).returncode),
    reason="pdflatex with booktabs is not installed",
)
def test_all_tables_compile_with_booktabs(tmp_path: Path) -> None:
    bodies = [render.render(rebuilt(spec, STL), "latex") for spec in PAPER_TABLES.values()]
    preamble = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n"
    (tmp_path / "t.tex").write_text(preamble + "\n\\clearpage\n".join(bodies) + "\\end{document}\n", "utf-8")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]


def test_ten_thousand_cells_are_a_table_in_time() -> None:
    """Building and rendering take 0.4 s on an idle machine; loading is the store's."""
    names = ("full", "bra", "criss_cross", "dilated", "pooling")
    records = [
        Measurement.of(
            Cell(
                mechanism=names[i % 5],
                layout="swin_t",
                metric="throughput",
                mode=("infer", "train")[i % 2],
                precision=("fp32", "amp")[i // 2 % 2],
                resolution=224,
                options={"topk": i // 20},
                preset="quick",
            ),
            "throughput",
            10.0 + i % 7,
            "images/s",
            status="failed" if i % 50 == 0 else "ok",
            reason=f"number {i}" if i % 50 == 0 else "",
            samples=[10.0 + (i * j) % 7 for j in range(30)],
            details={"group": str(i % 4), "ratio": 1.0, "baseline": "timm_swin", "verdict": "baseline"},
            environment=STATE,
        )
        for i in range(10_000)
    ]

    def calls(of: int) -> int:
        profile = cProfile.Profile()
        table = profile.runcall(ablation, records[:of], certified=lambda *_: True)
        profile.runcall(render.render, table, "md")
        assert len(table.raw) == of // 4
        return int(pstats.Stats(profile).total_calls)  # type: ignore[attr-defined]

    few = calls(1_000)
    assert calls(10_000) < 12 * few  # ten times the records, no more than about ten times the work


def run(*arguments: str) -> Any:
    return CliRunner().invoke(table_command.command, list(arguments), catch_exceptions=False)


def test_the_command_knows_the_tables_there_are() -> None:
    assert {*NAMES, "machines", *DENSE_TABLES, "scenes"} == set(table_command.TABLES)


def test_the_command_renders_without_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("table1", "--format", "csv")
    assert done.exit_code == 0
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["row"] for row in rows] == ["biformer_t", "biformer_s", "biformer_b", "timm_swin"]
    assert "measured columns are empty" in done.stderr


@pytest.mark.slow
def test_fill_counts_what_is_missing_once(tmp_path: Path) -> None:
    folder = tmp_path / "records"
    folder.mkdir()
    first = run("table1", "--records", str(folder), "--fill", "--format", "csv")
    rows = {row["row"]: row for row in csv.DictReader(io.StringIO(first.stdout))}
    assert {row: facts["parameters"] for row, facts in rows.items()} == {
        "biformer_t": "13142760",
        "biformer_s": "25536232",
        "biformer_b": "56804968",
        "timm_swin": "28288354",
    }
    assert "8 cells counted" in first.stderr
    (file,) = folder.glob("*.jsonl")
    before = file.read_text()
    assert "counted" not in run("table1", "--records", str(folder), "--fill").stderr
    assert file.read_text() == before
    told = run("table1", "--records", str(folder), "--explain", "BiFormer-T", "macs").stdout
    assert f"file: {file}:" in told
    assert "as it is now" in told
    missing = run(
        "table1", "--records", str(folder), "--explain", "biformer_t", "images_per_s_infer_fp32"
    ).stdout
    command = "attnbench run --layout biformer_tiny --mechanisms bra --metrics throughput"
    assert f"to measure it: {command} --out {tmp_path}" in missing


def test_figure_1_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    folder = tmp_path / "records"
    store.append(folder / "test.jsonl", [speed("swin_t", [20.0]), speed("quadtree_stl", [5.0])])
    assert run("figure1", "--records", str(folder), "--plot", str(tmp_path / "f.svg")).exit_code == 0
    drawn = (tmp_path / "f.svg").read_text()
    assert "QuadTree-STL" in drawn
    assert "hatched as printed, plain as measured" in drawn


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table2"], "unknown table 'table2'"),
        (["table1", "--format", "pdf"], "unknown format 'pdf'"),
        (["table1", "--layout", "swin_t"], "are of ablation"),
        (["table1", "--records", "nowhere"], "no file or folder nowhere"),
        (["table1", "--fill", "--records", "."], "folder called records"),
        (["ablation", "--fill"], "attnbench run --metrics params,macs"),
        (["table5", "--plot", "x.png"], "--plot draws figure1"),
    ],
)
def test_mistakes_are_told(arguments: list[str], message: str, tmp_path: Path) -> None:
    said = call("table", *arguments, cwd=tmp_path)
    assert not said.accepted()
    assert message in said.err
