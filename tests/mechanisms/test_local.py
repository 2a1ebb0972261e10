"""The depth-wise convolution of a map is torch's, whichever gradients it takes."""

import pytest
import torch
from torch.nn import functional as F

from attnbench.mechanisms._local import depthwise


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("size", [(1, 6), (2, 5), (6, 5), (5, 1)])
def test_values_and_gradients_are_the_convolutions(size: tuple[int, int], kernel_size: int) -> None:
    draw = torch.Generator().manual_seed(0)
    shapes = [(2, *size, 4), (4, 1, kernel_size, kernel_size), (4,)]
    given = [torch.randn(shape, generator=draw, dtype=torch.float64).requires_grad_() for shape in shapes]
    x, weight, bias = given
    y = depthwise(x, weight, bias)
    plain = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=kernel_size // 2, groups=4)
    plain = plain.permute(0, 2, 3, 1)
    assert ("Depthwise" in str(y.grad_fn)) == (kernel_size > 3 or size[0] < 3)
    torch.testing.assert_close(y, plain)
    found, expected = (torch.autograd.grad(out.square().sum(), given) for out in (y, plain))
    torch.testing.assert_close(found, expected)
