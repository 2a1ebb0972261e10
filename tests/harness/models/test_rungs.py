"""The isolation ladder: the same bias and the same branch, whatever the pattern."""

import pytest
import torch
from torch import Tensor, nn

from attnbench.errors import AttnbenchError, UnknownNameError
from attnbench.harness.counting import macs
from attnbench.harness.models.backbone import create_model
from attnbench.harness.models.rungs import _projections, spec_on_rung
from attnbench.registry import Site, get

SITE = Site(32, 4, 10, 13, 0, 1)


def _on(name: str, rung: str, **options: object) -> nn.Module:
    torch.manual_seed(0)
    return spec_on_rung(get(name), rung).build(SITE, **options).double().eval()


def _dense(module: nn.Module, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Full attention, or masked to a pattern, with the weights and the bias b(Δ) of a biased module."""
    B, H, W, C = x.shape
    part, _ = _projections_inside(module)
    q, k, v = part.linear(x).view(B, H * W, 3, 4, C // 4).permute(2, 0, 3, 1, 4)
    grid = torch.stack(torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij"), -1).flatten(0, 1)
    bias = module.position((grid[:, None] - grid[None]).double()).permute(2, 0, 1)
    logits = (C // 4) ** -0.5 * q @ k.transpose(2, 3) + bias
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    out = (logits.softmax(-1) @ v).transpose(1, 2).reshape(B, H, W, C)
    return next(m for m in module.modules() if type(m).__name__ == "Uncoded").linear(out)


def _projections_inside(module: nn.Module) -> tuple[nn.Module, None]:
    return next(m for m in module.modules() if type(m).__name__ == "Coded"), None


@pytest.mark.parametrize(
    "name", ["full", "shifted_window", "neighborhood", "sliding_window", "sequential_axial", "block_grid"]
)
def test_the_bias_depends_on_the_offset_alone_in_every_pattern(name: str) -> None:
    module = _on(name, "bias")
    nn.init.normal_(module.position.coefficients)  # large, so that it matters
    x = torch.randn(2, 10, 13, 32, dtype=torch.float64)
    mask = get(name).build(SITE, "eager").support(10, 13) if name != "full" else None
    torch.testing.assert_close(module(x), _dense(module, x, mask), rtol=0, atol=1e-9)


def test_routed_attention_carries_the_bias() -> None:
    torch.manual_seed(0)
    site = Site(32, 4, 14, 14)
    module = spec_on_rung(get("bra"), "bias").build(site, topk=49, qk_scale="head_dim").double().eval()
    full = spec_on_rung(get("full"), "bias").build(site).double().eval()
    for one, other in zip(module.parameters(), full.parameters(), strict=True):
        other.data.copy_(nn.init.normal_(one.data, std=0.3))
    x = torch.randn(1, 14, 14, 32, dtype=torch.float64)
    torch.testing.assert_close(module(x), full(x), rtol=0, atol=1e-9)


def test_bare_takes_all_position_away() -> None:
    assert {name for name, _ in _on("shifted_window", "bare").named_parameters()} == {
        "qkv.weight",
        "qkv.bias",
        "proj.weight",
        "proj.bias",
    }
    assert getattr(_on("bra", "bare"), "lepe", None) is None


def test_local_adds_the_same_branch() -> None:
    module = _on("shifted_window", "local")
    x = torch.randn(1, 10, 13, 32, dtype=torch.float64)
    with_branch = module(x)
    nn.init.zeros_(module.local.weight)
    nn.init.zeros_(module.local.bias)
    assert not torch.equal(with_branch, module(x))
    torch.testing.assert_close(module(x), module.attn(x))


def test_rungs_cost_all_mechanisms_the_same() -> None:
    for rung in ("bare", "bias", "local"):
        with torch.device("meta"):
            models = [
                create_model("swin_pico", name, rung=rung)
                for name in ("bra", "shifted_window", "neighborhood")
            ]
        assert len({sum(p.numel() for p in model.parameters()) for model in models}) == 1


def test_a_rung_trains() -> None:
    model = create_model("swin_pico", "bra", rung="local")
    model(torch.randn(2, 1, 28, 28)).sum().backward()
    grads = [p.grad for name, p in model.named_parameters() if "coefficients" in name or "local" in name]
    assert grads
    assert all(grad is not None and grad.abs().sum() > 0 for grad in grads[:2])


def test_what_cannot_stand_on_a_rung_says_why() -> None:
    with pytest.raises(AttnbenchError, match="no projections of tokens"):
        _on("pooling", "bias")
    with pytest.raises(AttnbenchError, match="no bare form: no option takes away its local"):
        _on("local_global", "bias")
    with pytest.raises(AttnbenchError, match="impl='eager' alone"):
        _on("shifted_window", "bias", impl="sdpa")
    with pytest.raises(UnknownNameError, match="unknown rung 'bais'"):
        _on("full", "bais")
    assert _projections(nn.Linear(2, 2))[1] == ()


@pytest.mark.parametrize("rung", ["bare", "bias", "local"])
@pytest.mark.parametrize(
    "name", ["bra", "full", "shifted_window", "spatial_reduction", "spatially_separable", "cross_shaped"]
)
def test_formula_equals_count_on_every_rung(name: str, rung: str) -> None:
    with torch.device("meta"):
        model, image = create_model("swin_pico", name, impl="eager", rung=rung), torch.zeros(1, 1, 28, 28)
    assert sum(model.macs(28, 28).values()) == macs.count(model, image)
    assert sum(model.macs_backward(28, 28).values()) == macs.count_backward(model, image).macs
