"""Two small kernels that turn routes into what the fused kernels of bi-level routing attention walk.

*Bits*: the routes of a region as a row of bits, for kernels that attend under a mask; R / 8 bytes
a region. *Inverse lists*: which regions route to a region, for the gradients of keys and values: with the
list, one program adds up all that reaches its keys, so no atomics are needed and the result does not depend
on the order in which programs run. There is no sort: R·k routes of an image are few (784 in the Swin-T
layout), so each region's program reads them all, from the L1 cache, counts those of smaller regions to find
its place in the list, and ranks its own. One launch each, coalesced, written once.
"""

# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl
from torch import Tensor

from attnbench.mechanisms.bra.triton_launch import Launch, power_of_two


@triton.jit
def bits_kernel(routes, bits, topk, words, BLOCK_K: tl.constexpr, BLOCK_W: tl.constexpr):
    """One program: the words of one region."""
    row = tl.program_id(0).to(tl.int64)
    word = tl.arange(0, BLOCK_W)
    total = tl.zeros((BLOCK_W,), tl.int32)
    for first in range(0, topk, BLOCK_K):
        slot = first + tl.arange(0, BLOCK_K)
        region = tl.load(routes + row * topk + slot, mask=slot < topk, other=0).to(tl.int32)
        here = (region[:, None] // 32 == word[None, :]) & (slot < topk)[:, None]
        total += tl.sum(tl.where(here, 1 << (region % 32)[:, None], 0), 0)  # routes differ: the sum is an or
    tl.store(bits + row * words + word, total, mask=word < words)


def bits_launch(routes: Tensor, bits: Tensor) -> Launch:
    """(B, R, k) routes, which differ within a region, as bit r % 32 of word r // 32: (B, R, words) int32."""
    batch, regions, words = bits.shape
    constants = {"BLOCK_K": 16, "BLOCK_W": power_of_two(words)}
    return Launch(bits_kernel, batch * regions, (routes, bits, routes.shape[2], words), constants, warps=1)


@triton.jit
def inverse_kernel(routes, sources, starts, regions, topk, BLOCK: tl.constexpr):
    """One program: the list of one region of one image."""
    region = tl.program_id(0) % regions
    image = (tl.program_id(0) // regions).to(tl.int64)
    routes += image * regions * topk
    sources += image * regions * topk
    starts += image * (regions + 1)
    smaller = tl.zeros((BLOCK,), tl.int32)
    for first in range(0, regions * topk, BLOCK):
        edge = first + tl.arange(0, BLOCK)
        target = tl.load(routes + edge, mask=edge < regions * topk, other=regions)
        smaller += (target < region).to(tl.int32)
    end = tl.sum(smaller, 0)
    tl.store(starts + region, end)
    for first in range(0, regions * topk, BLOCK):
        edge = first + tl.arange(0, BLOCK)
        target = tl.load(routes + edge, mask=edge < regions * topk, other=regions)
        mine = (target == region).to(tl.int32)
        tl.store(sources + end + tl.cumsum(mine, 0) - 1, edge // topk, mask=mine != 0)
        end += tl.sum(mine, 0)
    if region == regions - 1:
        tl.store(starts + regions, end)


def inverse_launch(routes: Tensor, sources: Tensor, starts: Tensor) -> Launch:
    """(B, R, k) routes as lists of the regions that route to a region, in ascending order.

    ``sources`` (B, R·k) int32 holds the lists one after another, list r from ``starts[:, r]`` to
    ``starts[:, r + 1]``; ``starts`` is (B, R + 1) int32.
    """
    batch, regions, topk = routes.shape
    arguments = (routes, sources, starts, regions, topk)
    return Launch(inverse_kernel, batch * regions, arguments, {"BLOCK": 256}, warps=1)
