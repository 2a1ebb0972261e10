"""Convolutions whose stride is their kernel: one token from each r × r patch of a map."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnbench.mechanisms._autocast import autocast_dtype
from attnbench.mechanisms._by_hand import by_hand


class PatchConv(nn.Conv2d):
    """r × r convolution of stride r on a map (B, H, W, C); what fills no patch is left out.

    Its parameters are those of ``nn.Conv2d``. On a CPU oneDNN's gradients of such a convolution are slow
    (docs/speed.md): with them it is a product of patches and weights, 1.3 to 1.6 times faster, or, if it is
    depth-wise, has gradients of its own and stays in float32 under autocast, 4 to 8 times faster; so does
    its result. In half precision, with r = 1, and with fewer patches than channels of a token, the product is
    the faster one without gradients too, by 1.1 to 1.6.

    Args:
        dim, out_dim: channels of the map, and of a patch's token.
        ratio: r.
        groups: 1, or ``dim`` for a depth-wise one.
    """

    def __init__(self, dim: int, out_dim: int, ratio: int, *, groups: int = 1) -> None:
        super().__init__(dim, out_dim, ratio, stride=ratio, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C), no side smaller than r, to (B, H // r, W // r, C')."""
        r, dtype = self.kernel_size[0], autocast_dtype(x) or x.dtype
        rows, columns = x.shape[1] // r, x.shape[2] // r
        few = x.shape[0] * rows * columns < self.out_channels
        # On a CPU; compilers are left the convolution that they know.
        here = x.device.type == "cpu" and not torch.compiler.is_compiling()
        trained = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        if here and self.groups == 1 and (trained or dtype.itemsize == 2 or r == 1 or few):
            # Both are cast before they are put in order, which moves half as much.
            x, weight = x[:, : rows * r, : columns * r].to(dtype), self.weight.to(dtype)
            patches = x.unflatten(2, (columns, r)).unflatten(1, (rows, r)).transpose(2, 3).flatten(3, 4)
            if few:  # fewer numbers than the weights have: the patches take the order of these
                patches = patches.transpose(3, 4)
            else:
                weight = weight.permute(0, 2, 3, 1)
            return F.linear(patches.flatten(3), weight.flatten(1), self.bias)
        if here and trained:
            with torch.autocast("cpu", enabled=False):
                return self._depthwise(x.to(self.weight.dtype))
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    def _depthwise(self, x: Tensor) -> Tensor:
        if self.weight.element_size() > 2 and by_hand(x, self.weight):
            out: Tensor = _Depthwise.apply(x, self.weight, self.bias)
            return out
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class _Depthwise(torch.autograd.Function):
    """The depth-wise one with gradients by products of numbers: oneDNN's take 1 to 3 times as long.

    Made of differentiable operators, so there are second derivatives too.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, stride=weight.shape[-1], groups=x.shape[-1])
        return y.permute(0, 2, 3, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad
        of_x = of_weight = None
        r, (rows, columns) = weight.shape[-1], grad.shape[1:3]
        strips = grad.flatten(0, 1)[:, None, :, None]  # (B * rows, 1, columns, 1, C)
        if need_x:
            kernel = weight.permute(2, 3, 1, 0).contiguous()[None].transpose(2, 3)  # (1, r, 1, r, C)
            of_x = (strips * kernel).reshape(x.shape[0], rows * r, columns * r, -1)
            if of_x.shape != x.shape:
                of_x = F.pad(of_x, (0, 0, 0, x.shape[2] - columns * r, 0, x.shape[1] - rows * r))
        if need_weight:
            patches = x[:, : rows * r, : columns * r].reshape(-1, r, columns, r, x.shape[3])
            total = patches[0] * strips[0]
            for patch, strip in zip(patches[1:].unbind(), strips[1:].unbind(), strict=True):
                total.addcmul_(patch, strip)  # row by row of patches, which caches hold
            of_weight = total.sum(1).permute(2, 0, 1)[:, None]
        return of_x, of_weight, grad.sum((0, 1, 2)) if need_bias else None
