"""Convolutions whose stride is their kernel: one token from each r × r patch of a map."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PatchConv(nn.Conv2d):
    """r × r convolution of stride r on a map (B, H, W, C); what fills no patch is left out.

    Its parameters are those of ``nn.Conv2d``. On a CPU oneDNN's gradients of such a convolution are slow
    (docs/speed.md): with them it is a product of patches and weights, 1.3 to 1.6 times faster, or, if it is
    depth-wise, stays in float32 under autocast, 4 to 8 times faster than in bfloat16.

    Args:
        dim, out_dim: channels of the map, and of a patch's token.
        ratio: r.
        groups: 1, or ``dim`` for a depth-wise one.
    """

    def __init__(self, dim: int, out_dim: int, ratio: int, *, groups: int = 1) -> None:
        super().__init__(dim, out_dim, ratio, stride=ratio, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C), no side smaller than r, to (B, H // r, W // r, C')."""
        if not self._trained(x):
            return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        if self.groups > 1:
            with torch.autocast("cpu", enabled=False):
                wide = x.to(self.weight.dtype)
                return super().forward(wide.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        r = self.kernel_size[0]
        rows, columns = x.shape[1] // r, x.shape[2] // r
        patches = x[:, : rows * r, : columns * r].unflatten(2, (columns, r)).unflatten(1, (rows, r))
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)  # (C', r·r·C)
        return F.linear(patches.transpose(2, 3).flatten(3), weight, self.bias)

    def _trained(self, x: Tensor) -> bool:
        """Whether there will be gradients on a CPU; compilers are left the convolution that they know."""
        if torch.compiler.is_compiling() or x.device.type != "cpu":
            return False
        return torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
