"""Neighborhood attention, plain and dilated, against full attention under masks written from the paper."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attnbench import AttnbenchError, ImplementationError, Site, get

MAPS = [(14, 14), (29, 9), (16, 31), (1, 40), (5, 3)]  # dense, tiled on one axis, on both, thin, tiny


def nearest(length: int, kernel: int, dilation: int) -> list[list[int]]:
    """Keys of each token of an axis: of all runs of K tokens of its class, the one centred nearest to it."""
    keys = []
    for i in range(length):
        same = [j for j in range(length) if (j - i) % dilation == 0]
        size = min(kernel, len(same))
        runs = [same[s : s + size] for s in range(len(same) - size + 1)]
        keys.append(min((abs(run[0] + run[-1] - 2 * i), run) for run in runs)[1])
    return keys


def masked_full_attention(module: nn.Module, x: Tensor) -> Tensor:
    """The module's result by dense attention, reading nothing but its parameters and options."""
    m: Any = module
    B, H, W, C = x.shape
    K, D, heads = m.kernel_size, m.dilation, m.num_heads
    bias = torch.full((heads, H, W, H, W), float("-inf"), dtype=x.dtype)
    for i, ys in enumerate(nearest(H, K, D)):
        for j, xs in enumerate(nearest(W, K, D)):
            for y in ys:
                for z in xs:
                    at = (y - i) // D + K - 1, (z - j) // D + K - 1  # key minus query, in dilated steps
                    bias[:, i, j, y, z] = 0 if m.bias_table is None else m.bias_table[:, *at]
    q, k, v = m.qkv(x).view(B, H * W, 3, heads, C // heads).permute(2, 0, 3, 1, 4)
    logits = q @ k.transpose(-2, -1) * (C // heads) ** -0.5 + bias.view(heads, H * W, H * W)
    out: Tensor = logits.softmax(-1) @ v
    return m.proj(out.transpose(1, 2).reshape(B, H, W, C))


def build(name: str, height: int, width: int, block: int = 0, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    module = get(name).build(Site(8, 2, height, width, 0, block), **options).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


def assert_equal(one: Callable[[Tensor], Tensor], other: Callable[[Tensor], Tensor], x: Tensor) -> None:
    torch.testing.assert_close(one(x), other(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("impl", ["eager", "tiled"])
@pytest.mark.parametrize("size", MAPS)
@pytest.mark.parametrize("dilation", [1, 2, 5])
def test_equals_full_attention_under_an_explicit_mask(
    impl: str, size: tuple[int, int], dilation: int
) -> None:
    module = build("neighborhood", 8, 8, kernel_size=5, dilation=dilation, impl=impl)
    x = torch.randn(1, *size, 8, dtype=torch.double)
    with torch.no_grad():
        assert_equal(module, lambda x: masked_full_attention(module, x), x)


@pytest.mark.parametrize("kernel_size", [9, 31])
def test_a_kernel_as_large_as_the_map_is_full_attention(kernel_size: int) -> None:
    module = build("neighborhood", 8, 8, kernel_size=kernel_size, position_bias=False)
    full = get("full").build(Site(8, 2, 9, 6)).double()
    full.load_state_dict(module.state_dict())
    assert_equal(module, full, torch.randn(2, 9, 6, 8, dtype=torch.double))


def test_a_kernel_of_one_passes_every_value_through() -> None:
    module: Any = build("neighborhood", 8, 8, kernel_size=1)
    assert_equal(module, lambda x: module.proj(module.qkv(x)[..., 16:]), torch.randn(1, 17, 4, 8).double())


@pytest.mark.parametrize("impl", ["eager", "tiled"])
def test_official_padding_attends_to_zeros_that_the_default_ignores(impl: str) -> None:
    official: Any = build("neighborhood", 8, 8, dilation=2, padding="official", impl=impl)
    masked: Any = build("neighborhood", 8, 8, dilation=2, impl=impl)
    small, large = (torch.randn(1, side, side, 8, dtype=torch.double) for side in (9, 15))
    padded = torch.zeros(1, 14, 14, 8, dtype=torch.double)
    padded[:, :9, :9] = small
    torch.testing.assert_close(official(small), masked(padded)[:, :9, :9])
    torch.testing.assert_close(official(large), masked(large))
    assert (official(small) - masked(small)).abs().max() > 1e-3
    assert official.macs(9, 9)["attention"] == 2 * 14**2 * 49 * 8
    assert masked.macs(9, 9)["attention"] == 2 * 9**2 * 25 * 8  # classes of 5 and 4 tokens


@pytest.mark.parametrize("name", ["neighborhood", "dilated"])
def test_swin_t_layout_costs_what_was_measured_on_dinat(name: str) -> None:
    total = 0
    for stage, depth in enumerate((2, 2, 6, 2)):
        side = 56 >> stage
        for block in range(depth):
            module: Any = get(name).build(Site(96 << stage, 3 << stage, side, side, stage, block))
            total += sum(module.macs(side, side).values())
    assert round(total / 1e9, 4) == 1.5274


def test_natten_has_no_bias_and_says_so() -> None:
    with pytest.raises(ImplementationError, match="position_bias=False"):
        build("neighborhood", 8, 8, impl="natten")


def test_natten_is_called_with_its_own_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    def na2d(q: Tensor, k: Tensor, v: Tensor, *, kernel_size: int, dilation: int, scale: float) -> Tensor:
        assert q.shape == (1, 10, 9, 2, 4)
        assert (kernel_size, dilation) == (3, 3)
        mask = torch.full((10, 9, 10, 9), float("-inf"), dtype=q.dtype)
        for i, ys in enumerate(nearest(10, 3, 3)):
            for j, xs in enumerate(nearest(9, 3, 3)):
                for y in ys:
                    mask[i, j, y, xs] = 0
        logits = torch.einsum("bijhd,byzhd->bhijyz", q, k) * scale + mask
        return torch.einsum("bhijn,bnhd->bijhd", logits.flatten(-2).softmax(-1), v.flatten(1, 2))

    monkeypatch.setattr("attnbench.mechanisms._neighborhood_module.natten_na2d", lambda: na2d)
    options = {"kernel_size": 3, "dilation": 3, "position_bias": False}
    both = (build("neighborhood", 8, 8, impl=impl, **options).float() for impl in ("natten", "eager"))
    module, eager = both
    x = torch.randn(1, 10, 9, 8)
    with torch.no_grad():  # on a CPU it has neither gradients nor float64
        torch.testing.assert_close(module(x), eager(x), rtol=1e-5, atol=1e-5)
    with pytest.raises(ImplementationError, match="neither gradients nor float64"):
        module(x)
    with pytest.raises(ImplementationError, match="at least kernel_size · dilation = 9"):
        module(torch.randn(1, 10, 8, 8))


@pytest.mark.parametrize("dilation", [1, 2])
def test_natten_itself_agrees(dilation: int) -> None:
    try:
        fused = get("neighborhood").build(
            Site(64, 2, 14, 14), impl="natten", dilation=dilation, position_bias=False
        )
    except ImplementationError as error:
        pytest.skip(str(error))
    tiled = get("neighborhood").build(
        Site(64, 2, 14, 14), impl="tiled", dilation=dilation, position_bias=False
    )
    tiled.load_state_dict(fused.state_dict())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x = torch.randn(2, 14, 15, 64, device=device)
    with torch.no_grad():
        torch.testing.assert_close(fused.to(device)(x), tiled.to(device)(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_size": 4}, "kernel_size must be odd and positive, got 4"),
        ({"kernel_size": -1}, "kernel_size must be odd and positive, got -1"),
        ({"dilation": 0}, "dilation must be positive, got 0"),
        ({"padding": "zeros"}, "padding must be 'masked' or 'official', got 'zeros'"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(AttnbenchError, match=message):
        build("neighborhood", 8, 8, **options)


def test_official_arguments_reach_the_module() -> None:
    case = {
        "mechanism": "natten_module",
        "cls": "natten.natten2d.NeighborhoodAttention2D",
        "kwargs": {
            "dim": 8,
            "num_heads": 2,
            "kernel_size": 3,
            "dilation": None,
            "bias": False,
            "qkv_bias": False,
            "qk_scale": 0.3,
        },
        "input_shape": [1, 5, 5, 8],
    }
    module, _ = get("neighborhood").load().from_official(case)  # type: ignore[attr-defined]
    assert [name for name, _ in module.named_parameters()] == ["qkv.weight", "proj.weight", "proj.bias"]
    assert (module.scale, module.dilation, module.padding) == (0.3, 1, "official")
