"""Figures: the same bytes twice, labels that overlap nothing, numbers that are the records'."""

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from attnbench import AttnbenchError, registry, store, tables
from attnbench.commands.figures import command
from attnbench.tables import speed as table_speed
from attnbench.tables.paper_table import rebuilt
from attnbench.tables.papers import get_paper_table
from attnbench.tables.points import Line, Point, front, group_of, ratios, values

pytest.importorskip("matplotlib")

from attnbench.figures import check_plottable, figure1, growth, labels, new_figure, pareto, save_figure, speed

ROOT = Path(__file__).parents[2]
RECORDS = store.read(ROOT / "results" / "records", pytest.fail)


@pytest.fixture(autouse=True)
def all_are_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a certificate named every implementation, whatever certificates lie about."""
    monkeypatch.setattr(table_speed, "speed_refusal", lambda *_, **__: "")


@pytest.fixture(scope="module")
def table() -> tables.Table:
    return tables.ablation(RECORDS, layout="swin_t")


@pytest.mark.parametrize("kind", ["svg", "pdf", "png"])
def test_the_same_bytes_twice_and_no_date(kind: str, table: tables.Table, tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_figure(speed.draw(table), tmp_path / f"{name}.{kind}")
    first = (tmp_path / f"a.{kind}").read_bytes()
    assert first == (tmp_path / f"b.{kind}").read_bytes()
    assert b"CreationDate" not in first
    assert b"<dc:date>" not in first


def test_a_figure_has_every_row_with_its_interval(table: tables.Table) -> None:
    figure = speed.draw(table)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert sorted(names) == sorted(point.title for point in ratios(table, "infer", "fp32"))
    drawn = {(round(x, 6), y) for line in figure.axes[0].lines for x, y in zip(*line.get_data(), strict=True)}
    for point in ratios(table, "infer", "fp32"):
        for end in (point.value, point.low, point.high):
            assert end is None or (round(end, 6), names.index(point.title)) in drawn


def _texts(figure: Any) -> list[tuple[float, float, float, float]]:
    renderer = figure._get_renderer()
    boxes = [text.get_window_extent(renderer) for axes in figure.axes for text in axes.texts]
    return [(box.x0, box.y0, box.x1, box.y1) for box in boxes]


def _overlaps(boxes: list[tuple[float, float, float, float]]) -> int:
    return sum(a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3] for a, b in combinations(boxes, 2))


def test_no_two_labels_overlap(table: tables.Table) -> None:
    for quality in pareto.qualities(table):
        figure = pareto.draw(table, quality)
        boxes = _texts(figure)
        assert len(boxes) >= 3 * len(set(quality.points))
        assert _overlaps(boxes) == 0, quality.title


def test_labels_of_coincident_points_are_told_apart() -> None:
    figure, axes = new_figure(4, 3)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    crowded = labels.label_points(axes, [(0.5, 0.5, f"mechanism {i}") for i in range(12)])
    assert crowded == 0
    assert _overlaps(_texts(figure)) == 0


def test_places_are_moved_apart_as_little_as_that_takes() -> None:
    assert labels.spread([0.0, 10.0], 1.0) == [0.0, 10.0]
    assert labels.spread([5.0, 5.0, 5.0], 2.0) == [3.0, 5.0, 7.0]
    moved = labels.spread([3.0, 1.0, 1.1, 9.0], 1.0)
    assert moved[3] == 9.0
    assert all(abs(a - b) >= 1 - 1e-9 for a, b in combinations(moved, 2))
    assert moved[1] < moved[2] < moved[0], "order is kept"


def test_a_front_is_of_those_that_none_beats() -> None:
    cheap_bad, cheap_good, dear_best, dear_bad = (1.0, 50.0), (1.0, 60.0), (3.0, 90.0), (4.0, 80.0)
    points = [dear_bad, cheap_bad, dear_best, cheap_good]
    assert front(points, less_is_better=True) == [3, 2]
    fast_good = [(1.0, 60.0), (2.0, 90.0), (3.0, 40.0)]
    assert front(fast_good, less_is_better=False) == [1, 2]


def test_growth_tells_laws_apart(tmp_path: Path) -> None:
    lines = [
        Line("a", "Linear", "static", 1.0, 1.0, 1.0, 1.0, {56: 10, 224: 160, 2048: 13_000}),
        Line("b", "Square", "static", 2.0, 2.0, 2.0, 2.0, {56: 10, 224: 2560, 2048: 17_000_000}),
        Line("c", "Nothing", "static", 1.0, None, None, None, {56: 0, 224: 0}),
    ]
    figure = growth.draw(lines, "growth")
    assert [axes.get_title(loc="left").partition(",")[0] for axes in figure.axes] == ["O(N)", "O(N$^{2}$)"]
    said = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert said == ["Linear: 1.00", "Square: 2.00"]
    assert growth.draw(lines[2:], "growth") is None


def test_figure_1_shows_what_is_missing() -> None:
    bars = figure1.bars(rebuilt(get_paper_table("figure1"), []))
    assert bars
    assert {bar.source for bar in bars} == {"printed"}
    gone = figure1.missing(bars, list(dict.fromkeys(bar.row for bar in bars)))
    assert all(source == "printed" for _, _, source in gone)


def test_points_are_the_records_numbers(table: tables.Table) -> None:
    by_row = {point.row: point for point in values(table, "macs")}
    counted = {m.cell.mechanism: m.value for m in RECORDS if m.name == "macs" and m.cell.layout == "swin_t"}
    assert {row: point.value for row, point in by_row.items()} == counted
    assert Point("x", "X", "", 10.0, 5.0, 20.0).over(5.0) == Point("x", "X", "", 2.0, 1.0, 4.0)
    assert {group_of(name) for name in registry.names()} <= {"static", "image", "query"}
    assert group_of("timm_swin") == "baseline"


def test_a_plot_is_checked_before_anything_is_measured(tmp_path: Path) -> None:
    with pytest.raises(AttnbenchError, match="must end with one of"):
        check_plottable(tmp_path / "plot.xyz")
    with pytest.raises(AttnbenchError, match="there is no folder"):
        check_plottable(tmp_path / "no" / "plot.png")


def test_the_command_draws_all(tmp_path: Path) -> None:
    records = str(ROOT / "results" / "records")
    done = CliRunner().invoke(command, [str(tmp_path / "out"), "--records", records, "--format", "svg"])
    assert done.exit_code == 0, done.output
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"speed.svg", "figure1.svg"}
    wrong = CliRunner().invoke(command, [str(tmp_path), "--records", records, "--format", "doc"])
    assert isinstance(wrong.exception, AttnbenchError)
