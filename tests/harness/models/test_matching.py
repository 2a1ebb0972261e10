"""Equal budgets are equal when counted, and the knobs are those that matter."""

import pytest
import torch

from attnbench.errors import AttnbenchError, UnknownNameError
from attnbench.harness.counting import macs
from attnbench.harness.models.backbone import create_model
from attnbench.harness.models.matching import cost, match
from attnbench.layouts.swin import SWIN_T
from attnbench.registry import get


@pytest.mark.parametrize(
    ("name", "target", "knob"),
    [("bra", "shifted_window", "topk"), ("shifted_window", "bra", "window_size")],
)
def test_macs_become_equal(name: str, target: str, knob: str) -> None:
    found = match(get(name), SWIN_T, cost(SWIN_T, target, "macs"), "macs", 0.01, knob)
    with torch.device("meta"):
        model = create_model("swin_t", name, impl="eager", **found.options)
    assert macs.count(model, torch.zeros(1, 3, 224, 224, device="meta")) == found.reached
    assert abs(found.gap) <= 0.01


def test_parameters_become_equal() -> None:
    target = cost(SWIN_T, "shifted_window", "parameters")
    found = match(get("bra"), SWIN_T, target, "parameters", 1e-4, "mlp_ratio")
    assert cost(SWIN_T, "bra", "parameters", **found.options) == found.reached
    assert abs(found.gap) <= 1e-4


def test_what_is_in_reach_already_stays() -> None:
    found = match(get("bra"), SWIN_T, cost(SWIN_T, "bra", "macs"), "macs", 0.01, "topk")
    assert found.options == {"topk": [1, 4, 16, None]}


def test_a_knob_that_turns_nothing_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="option of bra that changes its macs"):
        match(get("bra"), SWIN_T, 1, "macs", 0.01, "full_num_heads")
    with pytest.raises(AttnbenchError, match="no whole-number option of identity"):
        match(get("identity"), SWIN_T, 1, "macs", 0.01)
