"""Multiply-adds (MACs): by the mechanisms' formulas, and as torch's counter sees them.

A MAC is one multiplication with one addition. Papers on vision transformers, and fvcore, call these
"FLOPs"; torch's ``FlopCounterMode`` counts two per MAC. Matrix products and convolutions count;
softmax, norms, biases, activations, pooling, gathers and interpolation do not.
"""

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from attnbench.errors import AttnbenchError


def count(model: nn.Module, image: Tensor) -> int:
    """MACs of one forward pass, by torch's counter. Use meta tensors: they cost no memory or time.

    Fused attention is taken apart into its two matrix products, since some releases of torch count it
    as nothing on a CPU.

    Raises:
        AttnbenchError: the counter fails its self-test with this torch.
    """
    self_test()
    return _count(model, image)


@functools.cache
def self_test() -> None:
    """Count products of known size; a counter that misses one must not print a number.

    Raises:
        AttnbenchError: a count is wrong.
    """
    q = torch.empty(1, 2, 5, 8, device="meta")

    class Known(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            F.conv2d(torch.empty(1, 4, 6, 6, device="meta"), torch.empty(4, 1, 3, 3, device="meta"), groups=4)
            return F.scaled_dot_product_attention(x, x, x)

    expected = 2 * (2 * 5 * 5 * 8) + 4 * 4 * 4 * 9
    counted = _count(Known(), q)
    if counted != expected:
        raise AttnbenchError(
            f"torch {torch.__version__} counts {counted} MACs where there are {expected}; use another torch"
        )


def _count(model: nn.Module, image: Tensor) -> int:
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        model(image)
    flops = counter.get_total_flops()
    return flops // 2
