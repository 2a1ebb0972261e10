"""Patches reduced to tokens: what the convolution gives, whatever runs."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from attnbench.mechanisms._patches import PatchConv


@pytest.mark.parametrize("size", [(4, 6), (5, 7)])
@pytest.mark.parametrize(("groups", "out_dim"), [(1, 8), (1, 32), (4, 4)])  # 12 patches: more and fewer
def test_values_and_gradients_are_the_convolutions(size: tuple[int, int], groups: int, out_dim: int) -> None:
    conv = PatchConv(4, out_dim, 2, groups=groups).double()
    x = torch.randn(2, *size, 4, dtype=torch.float64, requires_grad=True)
    given = (x, conv.weight, conv.bias)

    def plain() -> Tensor:
        y = F.conv2d(x.permute(0, 3, 1, 2), conv.weight, conv.bias, stride=2, groups=groups)
        return y.permute(0, 2, 3, 1)

    torch.testing.assert_close(conv(x), plain())
    for order in ((0, 1, 2, 3), (0, 1, 3, 2)):  # gradients come in the order of what follows
        losses = [y.permute(order).contiguous().square().sum() for y in (conv(x), plain())]
        found, expected = (torch.autograd.grad(loss, given) for loss in losses)  # type: ignore[arg-type]
        torch.testing.assert_close(found, expected)
    with torch.no_grad():
        torch.testing.assert_close(conv(x), plain())


def test_a_depth_wise_one_is_trained_in_float32_under_autocast() -> None:
    conv = PatchConv(4, 4, 2, groups=4)
    x = torch.randn(1, 4, 4, 4).bfloat16()
    seen: list[Tensor] = []
    with torch.autocast("cpu", torch.bfloat16):
        seen.append(conv(x))
        with torch.no_grad():
            seen.append(conv(x))
    assert [t.dtype for t in seen] == [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("autocast", [True, False])
def test_half_precision_gives_what_the_convolution_gives(trained: bool, autocast: bool) -> None:
    conv = PatchConv(16, 24, 2)
    x = torch.randn(2, 5, 6, 16)
    if not autocast:
        conv, x = conv.bfloat16(), x.bfloat16()
    with torch.set_grad_enabled(trained), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = conv(x)
        plain = F.conv2d(x.permute(0, 3, 1, 2), conv.weight, conv.bias, stride=2).permute(0, 2, 3, 1)
    assert y.dtype == plain.dtype == torch.bfloat16
    assert y.shape == (2, 2, 3, 24)
    torch.testing.assert_close(y, plain, rtol=2e-2, atol=2e-2)


def test_the_depth_wise_ones_gradients_have_gradients() -> None:
    conv = PatchConv(3, 3, 2, groups=3).double()

    def of_x_and_weight(x: Tensor, weight: Tensor) -> Tensor:
        return torch.func.functional_call(conv, {"weight": weight}, x)

    x = torch.randn(2, 5, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(of_x_and_weight, (x, conv.weight))
