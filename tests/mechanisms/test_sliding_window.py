"""Sliding-window attention against full attention under a band mask, and against its neighbour."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attnbench import AttnbenchError, Site, get


def build(name: str = "sliding_window", **options: Any) -> Any:
    torch.manual_seed(0)
    module = get(name).build(Site(8, 2, 8, 8), **options).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


def masked_full_attention(module: Any, x: Tensor) -> Tensor:
    """Dense attention in which offsets beyond K // 2 on either axis are masked."""
    B, H, W, C = x.shape
    K, heads = module.kernel_size, module.num_heads
    y, z = (t.flatten() for t in torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij"))
    dy, dz = y[None, :] - y[:, None], z[None, :] - z[:, None]  # key minus query
    near = (dy.abs() <= K // 2) & (dz.abs() <= K // 2)
    bias = torch.full((heads, H * W, H * W), float("-inf"), dtype=x.dtype)
    bias[:, near] = module.bias_table[:, dy[near] + K // 2, dz[near] + K // 2]
    q, k, v = module.qkv(x).view(B, H * W, 3, heads, C // heads).permute(2, 0, 3, 1, 4)
    out = (q @ k.transpose(-2, -1) * (C // heads) ** -0.5 + bias).softmax(-1) @ v
    return module.proj(out.transpose(1, 2).reshape(B, H, W, C))


@pytest.mark.parametrize("impl", ["eager", "tiled"])
@pytest.mark.parametrize("size", [(14, 14), (29, 9), (16, 31), (1, 40), (5, 3), (8, 8)])
@pytest.mark.parametrize("kernel_size", [3, 7, 21])
def test_equals_full_attention_under_an_explicit_mask(
    impl: str, size: tuple[int, int], kernel_size: int
) -> None:
    module = build(kernel_size=kernel_size, impl=impl)
    x = torch.randn(1, *size, 8, dtype=torch.double)
    torch.testing.assert_close(module(x), masked_full_attention(module, x), rtol=1e-10, atol=1e-10)


def test_a_kernel_of_twice_the_map_less_one_is_full_attention() -> None:
    module, smaller = (build(kernel_size=k, position_bias=False) for k in (17, 15))
    full = get("full").build(Site(8, 2, 9, 9)).double()
    full.load_state_dict(module.state_dict())
    x = torch.randn(1, 9, 9, 8, dtype=torch.double)
    torch.testing.assert_close(module(x), full(x))
    assert (smaller(x) - full(x)).abs().max() > 1e-6


def test_it_is_neighborhood_attention_except_near_the_border() -> None:
    sliding, neighborhood = (
        build(name, kernel_size=5, position_bias=False) for name in ("sliding_window", "neighborhood")
    )
    x = torch.randn(1, 20, 18, 8, dtype=torch.double)
    difference = (sliding(x) - neighborhood(x)).abs().amax(-1)[0]
    assert difference[2:-2, 2:-2].max() < 1e-12
    difference[2:-2, 2:-2] = 1
    assert difference.min() > 1e-6


def test_moving_the_image_moves_the_result() -> None:
    """A centred window knows nothing of absolute position, away from the border."""
    module = build(kernel_size=5)
    x = torch.randn(1, 30, 30, 8, dtype=torch.double)
    torch.testing.assert_close(module(x)[:, 5:-2, 6:-2], module(x[:, 3:, 4:])[:, 2:-2, 2:-2])


def test_masked_keys_count_in_the_swin_t_layout() -> None:
    total = 0
    for stage, depth in enumerate((2, 2, 6, 2)):
        side = 56 >> stage
        module: Any = get("sliding_window").build(Site(96 << stage, 3 << stage, side, side, stage))
        total += depth * sum(module.macs(side, side).values())
    assert round(total / 1e9, 4) == 1.5274


@pytest.mark.parametrize("kernel_size", [0, 6])
def test_wrong_kernel_is_named(kernel_size: int) -> None:
    with pytest.raises(AttnbenchError, match=f"kernel_size must be odd and positive, got {kernel_size}"):
        build(kernel_size=kernel_size)
