"""Depth-wise convolution of a channels-last map: the local term (LePE, LCE) of several mechanisms."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Depth-wise convolution of (B, H, W, C) with (C, 1, k, k), odd k, stride 1 and zero padding k // 2."""
    # A channels-last view: oneDNN and cuDNN are several times faster on it than on a contiguous copy.
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=weight.shape[-1] // 2, groups=x.shape[-1])
    return y.permute(0, 2, 3, 1)


class DepthwiseConv(nn.Module):
    """k × k depth-wise convolution with bias, stride 1 and zero padding k // 2, on (B, H, W, C).

    Its parameters carry the names of the ``nn.Conv2d`` it stands for.

    Args:
        dim: channels C.
        kernel_size: odd k.

    Raises:
        ValueError: ``kernel_size`` is even or not positive.
    """

    def __init__(self, dim: int, kernel_size: int) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"the kernel of a depth-wise term must be odd and positive, got {kernel_size}")
        reference = nn.Conv2d(dim, dim, kernel_size, groups=dim)  # for its initialisation
        self.kernel_size = kernel_size
        self.weight, self.bias = reference.weight, reference.bias

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        return depthwise(x, self.weight, self.bias)

    def macs(self, height: int, width: int) -> int:
        """Multiply-adds per image: k²·N·C."""
        return self.kernel_size**2 * height * width * self.weight.shape[0]

    def parameter_count(self) -> int:
        """(k² + 1)·C."""
        return (self.kernel_size**2 + 1) * self.weight.shape[0]


def neighbours(height: int, width: int, kernel_size: int) -> Tensor:
    """(N, N) bool: tokens within a centred k × k square of each other; what a convolution connects."""
    reach = kernel_size // 2
    y, x = torch.arange(height), torch.arange(width)
    near_y = (y[:, None] - y[None, :]).abs() <= reach
    near_x = (x[:, None] - x[None, :]).abs() <= reach
    near = near_y[:, None, :, None] & near_x[None, :, None, :]
    return near.reshape(height * width, height * width)
