"""Which implementation runs: the choice of ``auto``, what a record says of it, and ``compiled``."""

import pytest
import torch
from torch import Tensor, nn

from attnbench import AttnbenchError, ImplementationError, Site, UnknownNameError, backends, get, registry
from attnbench.harness.models.backbone import create_model, executed_impl
from attnbench.harness.setting import Setting
from attnbench.implementations import compile_module, executed, resolve

CPU = torch.device("cpu")


class Choosy(nn.Module):
    """Chooses by all that it is told."""

    def __init__(self, impl: str = "auto") -> None:
        super().__init__()
        self.impl = impl

    def implementation(
        self, device: torch.device, dtype: torch.dtype, height: int, width: int, training: bool
    ) -> str:
        return f"{device.type} {dtype} {height}x{width} {training}"


def test_auto_is_chosen_by_what_attention_works_on() -> None:
    x = torch.ones(1, 2, 3, 4)
    assert resolve(Choosy(), x, 2, 3) == "cpu torch.float32 2x3 False"
    assert resolve(Choosy(), x.bfloat16().requires_grad_(), 5, 6) == "cpu torch.bfloat16 5x6 True"
    with torch.no_grad():
        assert resolve(Choosy(), x.requires_grad_(), 2, 3).endswith("False")
    assert resolve(Choosy("sdpa"), x, 2, 3) == "sdpa"


def test_what_a_record_says_needs_no_run() -> None:
    assert executed(Choosy(), CPU, torch.float16, 7, 8, True) == "cpu torch.float16 7x8 True"
    assert executed(Choosy("eager"), CPU, torch.float16, 7, 8, True) == "eager"
    assert executed(nn.Identity(), CPU, torch.float32, 7, 8, True) == "eager"


@pytest.mark.parametrize(
    ("mode", "precision", "expected"),
    [("infer", "fp32", "sdpa"), ("infer", "amp", "sdpa"), ("train", "fp32", "eager")],
)
def test_a_model_says_what_runs_in_a_setting(mode: str, precision: str, expected: str) -> None:
    model = create_model("swin_pico", "block_grid")
    assert executed_impl(model, Setting(CPU, mode, precision, 1, 28)) == expected


def test_implementations_that_differ_by_stage_are_joined() -> None:
    model = create_model("swin_pico", "bra").double()  # float64: without the fused kernel
    model.train()
    assert executed_impl(model) == "eager+masked+sdpa"


def test_auto_of_a_mechanism_without_a_choice_is_the_first_declared() -> None:
    for name in ("neighborhood", "criss_cross"):
        spec = get(name)
        assert spec.build(Site(8, 2, 4, 4)).impl == spec.facts.impls[0]


def test_every_choice_is_a_declared_implementation() -> None:
    for name in registry.names():
        spec = get(name)
        module = spec.build(Site(16, 2, 14, 14))
        for device in (CPU, torch.device("meta")):
            for dtype in (torch.float32, torch.bfloat16, torch.float64):
                for training in (True, False):
                    assert executed(module, device, dtype, 14, 14, training) in spec.facts.impls, name


def test_unknown_implementation_names_those_known() -> None:
    with pytest.raises(UnknownNameError, match="known: auto, compiled, eager, fused, masked, sdpa, unfused"):
        get("bra").build(Site(8, 2, 4, 4), impl="triton")


def test_only_eager_is_compiled() -> None:
    with pytest.raises(ImplementationError, match="only eager modules are compiled, got impl='sdpa'"):
        compile_module(get("full").build(Site(8, 2, 4, 4), impl="sdpa"))


def test_a_torch_that_cannot_compile_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no compiler\nat all")

    backends._probe_compiler.cache_clear()
    monkeypatch.setattr(torch, "compile", broken)
    try:
        with pytest.raises(AttnbenchError) as caught:
            get("full").build(Site(8, 2, 4, 4), impl="compiled")
    finally:
        backends._probe_compiler.cache_clear()
    message = str(caught.value)
    assert "'compiled' cannot run here: torch.compile fails on cpu (RuntimeError: no compiler)" in message
    assert "\n" not in message


@pytest.mark.slow
def test_compiled_is_eager_compiled_and_says_so() -> None:
    site = Site(8, 2, 4, 4)
    module, x = get("sequential_axial").build(site, impl="compiled"), torch.randn(1, 4, 4, 8)
    eager = get("sequential_axial").build(site, impl="eager")
    assert eager.state_dict().keys() == module.state_dict().keys()
    eager.load_state_dict(module.state_dict())
    torch.testing.assert_close(module(x), eager(x))
    assert executed(module, CPU, torch.float32, 4, 4, True) == "compiled"
    assert executed(eager, CPU, torch.float32, 4, 4, True) == "eager"


@pytest.mark.slow
def test_compiled_never_breaks_its_graph_in_silence() -> None:
    class Breaks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            torch._dynamo.graph_break()
            return 2 * x

    with pytest.raises(torch._dynamo.exc.Unsupported):
        compile_module(Breaks())(torch.ones(2))
