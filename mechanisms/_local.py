"""Depth-wise convolution of a channels-last map: the local term (LePE, LCE) of several mechanisms."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnbench.mechanisms._autocast import autocast_dtype


def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Depth-wise convolution of (B, H, W, C) with (C, 1, k, k), odd k, stride 1 and zero padding k // 2."""
    by_hand = weight.shape[-1] > 3 or x.shape[1] < 3
    if by_hand and x.device.type in ("cpu", "meta") and torch.is_grad_enabled():
        if (dtype := autocast_dtype(x)) is not None:
            x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        return _Depthwise.apply(x, weight, bias)
    return _convolve(x, weight, bias)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    # A channels-last view: oneDNN and cuDNN are several times faster on it than on a contiguous copy.
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=weight.shape[-1] // 2, groups=x.shape[-1])
    return y.permute(0, 2, 3, 1)


class _Depthwise(torch.autograd.Function):
    """The same with gradients written as forward convolutions: for 5 × 5 and more, or one or two rows.

    oneDNN's own take 1.3 to 3 times longer there, under autocast 2 to 8 times; for 3 × 3 on other maps they
    take 0.7 to 0.9 of these. Both cost what the convolution costs. They are made of differentiable operators,
    so there are second derivatives too.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _convolve(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad
        return (
            _convolve(grad, weight.flip(2, 3), None) if need_x else None,
            _weight_gradient(x, grad, weight.shape[-1]).to(weight.dtype) if need_weight else None,
            grad.sum((0, 1, 2)) if need_bias else None,
        )


def _weight_gradient(x: Tensor, grad: Tensor, kernel_size: int) -> Tensor:
    """(C, 1, k, k), in float32 at least, since the sums are long.

    oneDNN is fast where k = 3, in float32: 5 to 30 times faster than what follows. Where k = 5 it is 2 to 5
    times slower than each channel of each image convolved with its gradient as the kernel, then summed.
    """
    B, _, _, C = x.shape
    wide = torch.promote_types(x.dtype, torch.float32)
    if kernel_size == 3:
        x, grad = (t.to(wide).permute(0, 3, 1, 2) for t in (x, grad))
        like = grad.new_empty(C, 1, 3, 3)  # only its shape matters to the gradient of the weight
        one, only_weight = [1, 1], [False, True, False]
        found: Tensor = torch.ops.aten.convolution_backward(
            grad, x, like, None, one, one, one, False, [0, 0], C, only_weight
        )[1]
        return found
    x, grad = (  # (B·C, H, W), cast and transposed in one pass
        t.permute(0, 3, 1, 2).to(dtype=wide, memory_format=torch.contiguous_format).flatten(0, 1)
        for t in (x, grad)
    )
    per_image = F.conv2d(x[None], grad[:, None], padding=kernel_size // 2, groups=B * C)
    return per_image.view(B, C, 1, kernel_size, kernel_size).sum(0)


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
