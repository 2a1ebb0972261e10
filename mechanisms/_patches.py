"""Convolutions whose stride is their kernel: one token from each r × r patch of a map."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def reduce_patches(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """``conv`` on a map (B, H, W, C): (B, H // r, W // r, C'); what fills no patch is left out.

    On a CPU oneDNN's gradients of such a convolution are slow (docs/speed.md): with them it is a product of
    patches and weights, 1.3 to 1.6 times faster, or, if it is depth-wise, stays in float32 under autocast, 4
    to 8 times faster than in bfloat16.

    Args:
        x: (B, H, W, C), no side smaller than r.
        conv: kernel and stride r, no padding; of one group, or depth-wise.
    """
    r = conv.kernel_size[0]
    if not _trained(x, conv):
        return conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    if conv.groups > 1:
        with torch.autocast("cpu", enabled=False):
            wide = x.to(conv.weight.dtype).permute(0, 3, 1, 2)
            return conv(wide).permute(0, 2, 3, 1)
    rows, columns = x.shape[1] // r, x.shape[2] // r
    patches = x[:, : rows * r, : columns * r].unflatten(2, (columns, r)).unflatten(1, (rows, r))
    weight = conv.weight.permute(0, 2, 3, 1).flatten(1)  # (C', r·r·C)
    return F.linear(patches.transpose(2, 3).flatten(3), weight, conv.bias)


def _trained(x: Tensor, conv: nn.Conv2d) -> bool:
    """Whether there will be gradients on a CPU; compilers are left the convolution that they know."""
    if torch.compiler.is_compiling() or x.device.type != "cpu":
        return False
    return torch.is_grad_enabled() and (x.requires_grad or conv.weight.requires_grad)
