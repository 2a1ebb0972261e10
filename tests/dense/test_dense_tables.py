"""Tables of ADE20K, COCO and the scenes: printed beside measured, gaps, commands; costs as metrics."""

from pathlib import Path
from typing import Any

import pytest
import torch

from attnbench import metrics
from attnbench.configurations import CONFIGURATIONS
from attnbench.errors import AttnbenchError
from attnbench.harness.dense.measuring import costs, speed
from attnbench.harness.run.bench import Bench
from attnbench.harness.run.plan import PRESETS, Request, plan
from attnbench.heads import HEADS, SHORT_SIDES, differences, paper_size
from attnbench.record import Cell, Measurement
from attnbench.tables import render
from attnbench.tables.dense_table import DENSE_TABLES, beside_dense, command_for, uncounted
from attnbench.tables.narrow import as_text
from attnbench.tables.paper_table import rebuilt
from attnbench.tables.papers import PAPER_TABLES
from attnbench.tables.provenance import explain
from attnbench.tables.scenes_table import interval, scenes_table


def measured(model: str, metric: str, name: str, value: float, **fields: Any) -> Measurement:
    layout, mechanism, options = CONFIGURATIONS[model]
    details = fields.pop("details", {})
    cell = Cell(
        layout=layout,
        mechanism=mechanism,
        options=dict(options),
        metric=metric,
        **{"resolution": 512, **fields},
    )
    return Measurement.of(cell, name, value, "%", details=details)


def trained(
    model: str, value: float, head: str = "sem_fpn", data: str = "ade20k", **details: Any
) -> Measurement:
    facts = {"recipe": "sem_fpn_80k", "recipe_changes": {}, **details}
    return measured(model, f"{head}_training", "miou", value, mode="train", dataset=data, details=facts)


@pytest.mark.parametrize("name", DENSE_TABLES)
@pytest.mark.parametrize("form", render.FORMATS)
def test_every_table_is_built_without_a_record(name: str, form: str) -> None:
    text = render.render(beside_dense(DENSE_TABLES[name], []), form)
    assert "Swin-T" in text or "swin_t" in text
    assert "49.8" in text or "47.8" in text


def test_a_count_stands_beside_the_printed_one_with_gap_and_reason() -> None:
    counts = [
        measured("swin_t", "upernet_costs", "upernet_params", 59_941_862, device="meta"),
        measured("swin_t", "upernet_costs", "upernet_macs", 939_539_892_480, device="meta"),
    ]
    table = beside_dense(
        DENSE_TABLES["ade20k"], [*counts, trained("swin_t", 40.0), trained("swin_t", 99.0, data="scenes")]
    )
    assert table.value("swin_t", "gap_upernet_macs") == pytest.approx(-5.46, abs=0.01)
    assert table.value("swin_t", "gap_upernet_parameters") == pytest.approx(-0.058, abs=0.001)
    assert table.value("swin_t", "sem_fpn_miou_percent") == 40.0  # of ADE20K, not of the scenes
    assert table.value("swin_t", "gap_sem_fpn_miou_percent") == pytest.approx(-1.5)
    told = explain(table, "Swin-T", "Published UPerNet MACs (G)")
    assert "padding=official" in told
    assert "Swin segmentation release" in told
    missing, names = uncounted(DENSE_TABLES["ade20k"], counts)
    assert names == ("sem_fpn_costs", "upernet_costs")
    assert CONFIGURATIONS["swin_t"] in missing  # its Semantic FPN is not counted yet


def test_the_printed_macs_are_those_with_projections_of_padding() -> None:
    """What the notes of the printed figures say, counted."""
    for head, size, expected, printed in (
        ("upernet", (512, 2048), 944.4, 945),
        ("mask_rcnn", (800, 1280), 266.6, 267),
    ):
        from attnbench.harness.dense.dense_model import create_dense_model

        with torch.device("meta"):
            model: Any = create_dense_model(
                head, "swin_t", "shifted_window", 80, impl="eager", padding="official"
            )
        giga = sum(model.macs(*size).values()) / 1e9
        extra = 70 * 512 * 128 * 512 / 1e9 if head == "upernet" else 0  # 150 classes, not 80
        assert giga + extra == pytest.approx(expected, abs=0.05)
        assert printed * 0.997 < giga + extra < printed


def test_table5_has_a_measured_miou_and_a_gap_if_the_recipe_is_the_papers() -> None:
    spec = PAPER_TABLES["table5"]
    table = rebuilt(
        spec, [trained("swin_t", 40.5), trained("biformer_stl", 44.0, recipe_changes={"global_batch": 4})]
    )
    assert table.value("swin_t", "gap_miou") == pytest.approx(-1.0)
    assert table.value("biformer_stl", "sem_fpn_miou_percent") == 44.0
    assert table.value("biformer_stl", "gap_miou") is None
    assert "global_batch=4" in render.render(table, "md")
    assert "sem_fpn_miou_percent" in rebuilt(spec, []).raw


def test_commands_fill_what_is_missing() -> None:
    assert command_for("coco", "retinanet_costs", "swin_t") == "attnbench table coco --fill"
    assert "--task detection --data coco:FOLDER --recipe mask_rcnn_1x" in command_for(
        "coco", "mask_rcnn_training", "swin_t"
    )
    assert "--recipe scenes_upernet" in command_for("scenes", "upernet_training", "bra")
    assert "not a model" in command_for("coco", "retinanet_costs", "cswin_t")


def test_scenes_have_intervals_over_seeds() -> None:
    with pytest.raises(AttnbenchError, match="no records of the scenes"):
        scenes_table([])
    records = []
    for seed, value in enumerate((70.0, 72.0, 74.0)):
        facts = {"recipe": "scenes_sem_fpn", "recipe_changes": {}, "images_seen": 3200}
        cell = Cell(
            layout="swin_pico",
            mechanism="bra",
            metric="sem_fpn_training",
            mode="train",
            resolution=24,
            dataset="scenes",
            seed=seed,
        )
        records.append(Measurement.of(cell, "miou", value, "%", details=facts))
    floors = [
        m.model_copy(update={"cell": m.cell.model_copy(update={"mechanism": "identity"})}) for m in records
    ]
    floors = [m.model_copy(update={"value": 60.0 + m.cell.seed}) for m in floors]
    assert (
        scenes_table(records + floors).value("bra", "sem_fpn_miou_percent_over_identity")
        == "+11.0 [+8.5, +13.5]"
    )
    wide = [
        m.model_copy(update={"value": 50.0, "details": m.details | {"data_options": {"width": 192}}})
        for m in records[:1]
    ]
    other = scenes_table(records + wide)  # newer, of other images: never in one mean with them
    assert other.value("bra", "sem_fpn_miou_percent") == 50.0
    assert any("scenes with width=192" in note for note in other.notes)
    begun = [m.model_copy(update={"details": m.details | {"weights": "best.safetensors"}}) for m in wide[:1]]
    mixed = scenes_table([*records, *begun])  # nor of runs that began with a trained backbone
    assert mixed.value("bra", "sem_fpn_miou_percent") == 50.0
    assert any("from a trained backbone" in note for note in mixed.notes)
    table = scenes_table(wide + records)
    assert table.value("bra", "sem_fpn_miou_percent") == 72.0
    assert table.value("bra", "sem_fpn_miou_percent_interval") == "67.0 to 77.0 (3)"
    narrow = as_text(table)  # none of its metrics is measured by default, and yet they are what it shows
    assert "72.0" in narrow
    assert "67.0 to 77.0 (3)" in narrow
    low, high = interval([70.0, 72.0, 74.0]) or (0, 0)
    assert (high - low) / 2 == pytest.approx(4.302653 * 2 / 3**0.5, rel=1e-6)
    assert interval([1.0]) is None


def request(head: str, out: Path, *names: str, **fields: Any) -> Request:
    facts: dict[str, Any] = {
        "mechanisms": ("shifted_window",),
        "metrics": names,
        "layout": "swin_pico",
        "device": torch.device("cpu"),
        "precisions": ("fp32",),
        "modes": ("infer",),
        "batch_size": 1,
        "resolution": 64,
        "impl": "auto",
        "options": {},
        "seed": 0,
        "preset": PRESETS["quick"],
        "out": out,
    }
    return Request(**{**facts, **fields})


def test_costs_are_counted_at_the_papers_size_or_at_another(tmp_path: Path) -> None:
    usual = next(plan(request("upernet", tmp_path, "upernet_costs", layout="swin_t", resolution=224)))
    assert usual.resolution == SHORT_SIDES["upernet"] == 512
    assert paper_size("upernet", 512) == (512, 2048)
    assert paper_size("retinanet", 800) == (800, 1280)
    cell = next(plan(request("upernet", tmp_path, "upernet_costs")))
    found = {m.name: m for m in costs("upernet", cell)}
    assert all(m.status == "ok" for m in found.values())
    assert found["upernet_macs"].value == found["upernet_macs_counted"].value
    assert found["upernet_macs"].details["size"] == [64, 256]
    assert found["upernet_macs"].details["differences"] == differences("upernet")


@pytest.mark.parametrize("mode", ["infer", "train"])
def test_memory_and_speed_of_backbone_and_head(mode: str, tmp_path: Path) -> None:
    asked = request("sem_fpn", tmp_path, "sem_fpn_speed", modes=(mode,), resolution=32)
    cell = next(plan(asked))
    found = {m.name: m for m in speed("sem_fpn", cell, Bench(asked))}
    memory, rate = found["sem_fpn_peak_memory"], found["sem_fpn_images_per_s"]
    assert memory.value is not None
    assert memory.value > 4 * 1_000_000  # the weights alone
    assert rate.value is not None
    assert rate.value > 0
    assert len(rate.samples) >= 3
    assert {m.name for m in found.values()} <= {v.name for v in metrics.get("sem_fpn_speed").values}


def test_no_dense_metric_is_measured_unless_asked_for() -> None:
    for head in HEADS:
        for kind in ("costs", "speed", "training"):
            assert not metrics.get(f"{head}_{kind}").default
