"""Records of one rung, and Table 5 on it."""

import pytest

from attnbench.errors import AttnbenchError
from attnbench.record import Cell, Measurement
from attnbench.rungs import on_rung
from attnbench.tables import ablation
from attnbench.tables.paper_table import rebuilt
from attnbench.tables.papers import get_paper_table


def _count(rung: str, value: int) -> Measurement:
    options = {"rung": rung} if rung else {}
    cell = Cell(
        mechanism="bra", layout="swin_t", metric="params", resolution=224, options=options, device="meta"
    )
    return Measurement.of(cell, "parameters", value, "parameters")


def test_a_rung_shows_its_own_records_alone() -> None:
    records = [_count("", 1), _count("bare", 2), _count("bias", 3)]
    assert [m.value for m in on_rung(records, "bare")] == [2]
    assert [m.value for m in on_rung(records, "authors")] == [1]
    assert on_rung(records, "bare")[0].cell.row == "bra"
    with pytest.raises(AttnbenchError, match="run 'attnbench run --set rung=local' first"):
        on_rung(records, "local")


def test_ablation_on_a_rung_says_so_and_leaves_published_sizes_out() -> None:
    table = ablation([_count("", 1), _count("bare", 2)], rung="bare")
    assert "rung bare" in table.title
    assert table.raw.loc["bra", "parameters"] == 2
    assert "published_params" not in table.raw


def test_table_5_on_a_rung_is_of_one_layout() -> None:
    spec = get_paper_table("table5").on_rung("bare")
    models = [line.model for line in spec.lines()[:-1]]
    assert all(model and (model.layout, model.options) == ("swin_t", {"rung": "bare"}) for model in models)
    table = rebuilt(spec, [_count("", 1), _count("bare", 28_265_032)])
    assert table.raw.loc["biformer_stl", "parameters"] == 28_265_032
    assert "rung bare" in table.title
