"""Convolutions whose stride is their kernel: one token from each r × r patch of a map."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnbench.mechanisms._autocast import autocast_dtype


class PatchConv(nn.Conv2d):
    """r × r convolution of stride r on a map (B, H, W, C); what fills no patch is left out.

    Its parameters are those of ``nn.Conv2d``. On a CPU oneDNN's gradients of such a convolution are slow
    (docs/speed.md): with them it is a product of patches and weights, 1.3 to 1.6 times faster, or, if it is
    depth-wise, stays in float32 under autocast, 4 to 8 times faster than in bfloat16; so does its result. In
    half precision, with r = 1, and with fewer patches than channels of a token, the product is the faster
    one without gradients too, by 1.1 to 1.6.

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
        by_hand = x.device.type == "cpu" and not torch.compiler.is_compiling()
        trained = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        if by_hand and self.groups == 1 and (trained or dtype.itemsize == 2 or r == 1 or few):
            # Both are cast before they are put in order, which moves half as much.
            x, weight = x[:, : rows * r, : columns * r].to(dtype), self.weight.to(dtype)
            patches = x.unflatten(2, (columns, r)).unflatten(1, (rows, r)).transpose(2, 3).flatten(3, 4)
            if few:  # fewer numbers than the weights have: the patches take the order of these
                patches = patches.transpose(3, 4)
            else:
                weight = weight.permute(0, 2, 3, 1)
            return F.linear(patches.flatten(3), weight.flatten(1), self.bias)
        if by_hand and trained:
            with torch.autocast("cpu", enabled=False):
                wide = x.to(self.weight.dtype)
                return super().forward(wide.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
