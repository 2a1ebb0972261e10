"""results/published.csv: its form, its units, and that what is known to be wrong or unclear says so."""

import re
from collections import Counter

import pytest

from attnbench import names
from attnbench.configurations import CONFIGURATIONS, PUBLISHED
from attnbench.published import Figure, figures, of_mechanisms

ALL = figures()
UNITS = {
    "params": "M",
    "macs": "G",
    "top1": "%",
    "miou": "%",
    "miou_ms": "%",
    "throughput": "images/s",
    "attention_ms": "ms",
}
RANGES = {
    "M": (1, 100),
    "G": (1, 20),
    "G of dense": (50, 2000),
    "%": (15, 100),
    "images/s": (10, 2000),
    "ms": (0.1, 200),
}


def of(key: str, metric: str, **facts: str) -> Figure:
    (found,) = [
        f
        for f in ALL
        if f.key == key and f.metric == metric and all(getattr(f, k) == v for k, v in facts.items())
    ]
    return found


def test_every_number_has_its_place_and_unit() -> None:
    for figure in ALL:
        assert figure.key, figure
        assert figure.table, figure
        assert figure.row, figure
        assert figure.column, figure
        assert figure.unit == ("%" if figure.metric.startswith("ap") else UNITS[figure.metric]), figure
        assert figure.url.startswith("https://"), figure
        assert re.fullmatch(r"\d{4}", figure.year), figure
        assert re.fullmatch(r"(\d{4}\.\d{5})?", figure.arxiv), figure


def test_every_value_is_a_number_in_range_or_says_why_not() -> None:
    for figure in ALL:
        if figure.number is None:
            assert figure.note, figure
            continue
        low, high = RANGES["G of dense" if figure.head and figure.unit == "G" else figure.unit]
        assert low <= figure.number <= high, figure


def test_no_cell_of_a_paper_is_there_twice() -> None:
    twice = [place for place, times in Counter((f.table, f.row, f.column) for f in ALL).items() if times > 1]
    assert twice == []


def test_accuracy_says_who_trained_it_and_how() -> None:
    for figure in ALL:
        if figure.metric in ("top1", "miou", "miou_ms") or figure.metric.startswith("ap"):
            assert figure.trained_by, figure
            assert figure.schedule, figure
            assert figure.resolution, figure


def test_throughput_says_on_what() -> None:
    for figure in ALL:
        if figure.metric == "throughput":
            assert figure.hardware, figure
            assert figure.mode in ("infer", "train"), figure


@pytest.mark.parametrize(
    ("key", "metric", "word"),
    [
        ("cls_pvtv2_b1", "params", "14.0"),
        ("cls_cswin_t", "macs", "4.3"),
        ("cls_crossformer_s", "macs", "4.9"),
        ("cls_uniformer_s_tl", "top1", "without"),
        ("t6_4", "params", "contradicts"),
        ("t6_4", "macs", "contradicts"),
        ("t7_r1", "throughput", "542.3"),
        ("fig1_biformer_stl_fp32_infer", "throughput", "522.3"),
        ("coco_retina_crossformer_s", "ap50", "ResNet-50"),
        ("coco_retina_crossformer_s", "ap_l", "ResNet-50"),
        ("t5_deformable", "top1", "DAT-T itself"),
        ("t5_bra", "miou", "not a swap of attention alone"),
        ("t5_shifted_window", "miou", "44.5"),
        ("x_twins_svt_s", "macs", "leave out"),
        ("ade_sfpn_crossformer_b", "miou", "48.0"),
        ("coco_retina_biformer_s", "ap", "47.3"),
    ],
)
def test_known_disagreements_are_noted(key: str, metric: str, word: str) -> None:
    assert word in of(key, metric).note


def test_bars_that_cannot_be_told_apart_have_no_value() -> None:
    unclear = [f for f in ALL if f.table == "BiFormer Figure 1" and f.metric == "throughput" and not f.value]
    assert len(unclear) == 6
    assert sum("cannot be told" in f.note for f in unclear) == 4


def test_the_ablation_of_biformer_is_that_of_cswin_digit_for_digit() -> None:
    ours = {f.mechanism: f.value for f in ALL if f.table == "BiFormer Table 5" and f.metric == "top1"}
    theirs = [f.value for f in ALL if f.table == "CSWin Table 9" and f.metric == "top1"]
    assert [ours[name] for name in list(ours)[:6]] == theirs


def test_lines_that_stand_beside_mechanisms_and_configurations_exist() -> None:
    assert {f.mechanism for f in ALL} - {""} <= set(names())
    keys = {f.key for f in ALL}
    assert set(PUBLISHED) <= keys
    assert set(PUBLISHED.values()) <= set(CONFIGURATIONS)
    for metric, expected in {"top1": 8, "miou": 7, "params": 4, "macs": 5}.items():
        assert len(of_mechanisms(metric)) == expected


def test_a_value_rounds_to_what_is_printed_or_does_not() -> None:
    swin = of("swin1_swin_t", "macs")
    assert swin.is_printed_of(4.4906)
    assert not swin.is_printed_of(4.4499)
