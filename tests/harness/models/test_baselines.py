"""timm's Swin as a reference: sizes of the layout, pinned attention, counts that its formulas match."""

import pytest
import torch

from attnbench import baselines
from attnbench.errors import AttnbenchError
from attnbench.harness.counting import costs, parameters
from attnbench.harness.models.backbone import executed_impl
from attnbench.harness.models.baselines import REFERENCES, TimmSwin
from attnbench.harness.models.build import build
from attnbench.layouts.swin import SWIN_T
from attnbench.record import Cell


def cell(mechanism: str, layout: str = "swin_pico", resolution: int = 28) -> Cell:
    return Cell(mechanism=mechanism, layout=layout, metric="macs", resolution=resolution)


def test_names_and_builders_are_the_same() -> None:
    assert REFERENCES.keys() == baselines.TITLES.keys()
    assert baselines.BASELINE in REFERENCES
    assert baselines.source("timm_swin").startswith("timm ")
    assert not baselines.is_baseline("bra")


def test_swin_t_is_timms_to_the_last_parameter_and_mac() -> None:
    found = {m.name: m for m in costs.measure(cell("timm_swin", "swin_t", 224), _on_request("swin_t", 224))}
    assert {m.status for m in found.values()} == {"ok"}
    assert found["macs"].value == found["macs_counted"].value == 4_490_566_656
    with torch.device("meta"):
        assert parameters.measure(build(cell("timm_swin", "swin_t", 224))) == 28_288_354


@pytest.mark.parametrize("resolution", [28, 44])
def test_formulas_hold_where_windows_shrink_and_maps_are_padded(resolution: int) -> None:
    found = costs.measure(cell("timm_swin", "swin_pico", resolution), _on_request("swin_pico", resolution))
    assert {m.status for m in found} == {"ok"}, [m.reason for m in found]


def _on_request(layout: str, resolution: int):
    return lambda impl: build(cell("timm_swin", layout, resolution), impl)


def test_attention_is_pinned_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timm.models.swin_transformer.use_fused_attn", lambda experimental=False: True)
    explicit, fused = build(cell("timm_swin")), build(cell("timm_swin_sdpa"))
    assert {a.fused_attn for a in explicit.attentions()} == {False}
    assert {a.fused_attn for a in fused.attentions()} == {True}
    assert (executed_impl(explicit), executed_impl(fused)) == ("eager", "sdpa")
    image = torch.randn(2, 1, 28, 28)
    fused.load_state_dict(explicit.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(explicit.eval()(image), fused.eval()(image), rtol=1e-4, atol=1e-5)


def test_weights_come_from_the_seed() -> None:
    one, same = build(cell("timm_swin")), build(cell("timm_swin"))
    other = build(cell("timm_swin").model_copy(update={"seed": 1}))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_size_that_timm_does_not_take_is_said_in_one_line() -> None:
    with pytest.raises(AttnbenchError, match="multiple of 4 px, got 225"):
        TimmSwin(SWIN_T, 225, fused=False)
