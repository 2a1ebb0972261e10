"""Where the time of a step goes: five groups, each operator in one, and the record that holds them."""

from typing import Any

import pytest
import torch

from attnbench import create_model, metrics
from attnbench.harness.explain import gap
from attnbench.harness.explain.account import Account, Timed
from attnbench.harness.explain.ceilings import Ceilings
from attnbench.harness.explain.gap import Comparison, Effort, Explained
from attnbench.harness.explain.groups import (
    CORE,
    GROUPS,
    LAYERS,
    MODEL,
    MOVEMENT,
    PROJECTIONS,
    group_of,
    split,
)
from attnbench.harness.explain.phases import Place
from attnbench.harness.explain.recorder import Operator, record
from attnbench.harness.explain.traffic import Traffic
from attnbench.harness.run.bench import Bench
from attnbench.harness.setting import Setting, make_step
from attnbench.record import Cell

CPU = torch.device("cpu")
ROOF = Ceilings(flops_per_s=1e9, bytes_per_s=1e8, launch_s=1e-6, dtype="float32")
SETTING = Setting(CPU, "infer", "fp32", 1, 28)


def test_products_with_weights_copies_and_the_rest_of_the_attention_are_told_apart() -> None:
    model = create_model("swin_pico", "shifted_window", impl="eager")
    operators = record(make_step(model, model.layout, SETTING), model)
    groups: dict[str, set[tuple[str, str]]] = {}
    for operator in operators:
        groups.setdefault(group_of(operator), set()).add((operator.place.phase, operator.name))
    assert set(groups) == set(GROUPS)
    assert {phase for phase, name in groups[PROJECTIONS]} == {"qkv", "proj"}
    assert ("attend", "aten::bmm") in groups[CORE]
    assert not {phase for phase, _ in groups[CORE]} & {"qkv", "proj", "mlp"}
    assert "aten::roll" in {name for _, name in groups[MOVEMENT]}
    assert {phase for phase, _ in groups[LAYERS]} == {"norms", "mlp", "residual"}
    assert {"patch_embed", "merging", "head"} <= {phase for phase, _ in groups[MODEL]}


@pytest.mark.parametrize("mechanism", ["sequential_axial", "cross_shaped"])
def test_an_attention_inside_an_attention_is_no_projection(mechanism: str) -> None:
    """Both attend in submodules that hold a table of position biases, or may."""
    model = create_model("swin_pico", mechanism, impl="eager")
    operators = record(make_step(model, model.layout, SETTING), model)
    products = {group: sum(op.macs for op in operators if group_of(op) == group) for group in GROUPS}
    assert products[CORE] == sum(
        op.macs
        for op in operators
        if op.place.part == "attention" and op.name in ("aten::bmm", "aten::baddbmm")
    )
    assert products[CORE] > 0
    assert products[PROJECTIONS] > 0


@pytest.mark.parametrize("mode", ["infer", "train"])
def test_reducing_patches_is_a_projection_whatever_runs(mode: str) -> None:
    """A convolution for inference, a product where there are gradients."""
    model = create_model("swin_pico", "spatial_reduction", impl="eager")
    setting = Setting(CPU, mode, "fp32", 1, 28)
    reducing = [op for op in record(make_step(model, model.layout, setting), model) if op.place.phase == "sr"]
    assert sum(op.macs for op in reducing if group_of(op) == PROJECTIONS) > 0
    assert {group_of(op) for op in reducing} <= {PROJECTIONS, MOVEMENT}


def explained(name: str, steps: list[float], **seconds: float) -> Explained:
    """A model of one operator for each group, each of them a little slower in every other round."""
    places = {
        CORE: Place("layers.0", "attention", "attend"),
        PROJECTIONS: Place("layers.0", "attention", "qkv", learned=True),
        MOVEMENT: Place("layers.0", "attention", "partition"),
        LAYERS: Place("layers.0", "block", "mlp"),
        MODEL: Place("", "model", "head"),
    }
    names = {MOVEMENT: "aten::roll"}
    timed = [
        Timed(
            Operator(names.get(group, "aten::bmm"), place, "a.py:1", "forward", 10**5, Traffic()), s, 0.0, 1
        )
        for (group, place), s in zip(places.items(), seconds.values(), strict=True)
    ]
    times = [one.seconds for one in timed]
    rounds = [[s * (1.02 if odd else 1.0) for s in times] for odd in (0, 1, 0, 1)]
    cell = Cell(mechanism=name, layout="swin_pico", metric="explain", resolution=28)
    return Explained(cell, "eager", sum(times), [0.001], Account(timed, ROOF), steps, rounds)


SECONDS = {"core": 0.004, "projections": 0.003, "movement": 0.001, "layers": 0.0015, "model": 0.0005}


def test_shares_add_up_and_a_slow_round_does_not_widen_them() -> None:
    shares = {share.group: share for share in split(explained("bra", [0.01] * 4, **SECONDS))}
    assert sum(shares[group].share for group in GROUPS) == pytest.approx(1)
    assert shares[CORE].share == pytest.approx(0.4)
    assert shares["attention"].share == pytest.approx(0.8)
    assert shares["attention"].row is not None
    assert shares["attention"].row.macs == 3 * 10**5
    assert shares[CORE].half_width == pytest.approx(0, abs=1e-9), "all of a slow round is slow alike"


@pytest.mark.parametrize(
    ("steps", "verdict"),
    [
        ([0.0201, 0.0199, 0.0202, 0.02] * 3, "slower"),
        ([0.0101, 0.0099, 0.0102, 0.01] * 3, "cannot tell"),
        ([0.0051, 0.0049, 0.0052, 0.005] * 3, "faster"),
    ],
)
def test_the_record_holds_groups_roofline_and_whether_the_steps_differ(
    steps: list[float], verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = sum(steps) / len(steps)
    own = explained("bra", steps, **{name: s * whole / 0.01 for name, s in SECONDS.items()})
    base = explained("timm_swin", [0.01, 0.0101, 0.0099, 0.01] * 3, **SECONDS)

    def compare(cell: Cell, other: Cell | None, setting: Setting, effort: Effort) -> Comparison:
        assert other is not None
        assert (other.mechanism, other.impl, other.options) == ("timm_swin", "auto", {})
        return Comparison(own, base, ROOF, setting)

    monkeypatch.setattr(gap, "compare", compare)
    [m] = metrics.get("explain").measure(own.cell, bench())
    details: dict[str, Any] = m.details
    assert m.value == pytest.approx(0.8 * whole, rel=0.02)
    assert details["interval_95"][0] <= m.value <= details["interval_95"][1]
    assert details["verdict"] == verdict
    assert ("cannot tell them apart" in details["diagnosis"]) is (verdict == "cannot tell")
    ratio, low, high = details["times_as_long"]
    assert low < ratio < high
    assert details["ceilings"]["flops_per_s"] == ROOF.flops_per_s
    assert list(details["groups"]) == [*GROUPS, "attention"]
    assert details["groups"][CORE]["macs"] == 10**5


def test_the_baseline_is_beside_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    own = explained("timm_swin", [0.01] * 4, **SECONDS)

    def compare(cell: Cell, other: Cell | None, setting: Setting, effort: Effort) -> Comparison:
        assert other is None
        return Comparison(own, None, ROOF, setting)

    monkeypatch.setattr(gap, "compare", compare)
    [m] = metrics.get("explain").measure(own.cell, bench())
    assert m.details["verdict"] == "baseline"
    assert "times_as_long" not in m.details


def bench() -> Any:
    """What the metric asks of a bench, without a worker."""

    class Request:
        baseline, device = "timm_swin", CPU

    made = Bench.__new__(Bench)
    made.request = Request()  # type: ignore[assignment]
    return made
