"""The trainings on generated scenes that ship in results/: where context is needed, routing brings it."""

from pathlib import Path

import pytest

from attnbench import seeds, store

SCENES = Path(__file__).parents[2] / "results" / "dense" / "records" / "scenes.jsonl"
RECORDS = store.read(SCENES, pytest.fail)


def of(head: str, mechanism: str, value: str) -> dict[int, float]:
    """By seed, of the head's newest recipe."""
    found = [m for m in RECORDS if m.cell.metric == f"{head}_training" and m.name == value]
    return {
        m.cell.seed: float(m.value)
        for m in found
        if m.cell.mechanism == mechanism and m.cell.recipe == found[-1].cell.recipe and m.value is not None
    }


@pytest.mark.parametrize(
    ("head", "value"),
    [
        ("sem_fpn", "miou_context"),
        ("upernet", "miou_context"),
        ("retinanet", "ap_box_context"),
        ("mask_rcnn", "ap_box_context"),
        ("mask_rcnn", "ap_mask_context"),
    ],
)
def test_routing_is_above_no_attention_where_context_is_needed(head: str, value: str) -> None:
    bra, without = (of(head, name, value) for name in ("bra", "identity"))
    assert bra.keys() == without.keys() == {0, 1, 2}
    gain = seeds.mean([bra[seed] - without[seed] for seed in bra])
    assert gain.value - gain.half_width > 10
