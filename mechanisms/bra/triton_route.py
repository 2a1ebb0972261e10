"""Routing of fused bi-level routing attention: means of regions, scores, top-k. Eager twin: ``eager.route``.

Two launches instead of pooling, product and torch's top-k (five or so). *Means*: a program a region and 64
to 256 channels of q and k, which are contiguous in a token; v is not read, which pooling the whole
map would. *Choice*: a program for 16 regions of an image; their scores with all R regions stay in
registers, summed over the channels 32 at a time in float32 (never TF32: a wrong digit is a wrong region),
and the best is taken out k times. 16 rows by at most 512 columns in float32 are 64 registers a thread of
four warps.
"""

# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl
from torch import Tensor

from attnbench.mechanisms.bra.triton_launch import Launch, power_of_two
from attnbench.mechanisms.bra.triton_tiles import locate

MOST_REGIONS = 512
"""Of a map for the choice kernel; more are left to torch's product and top-k."""


@triton.jit
def means_kernel(
    qkv,  # (B, H, W, STRIDE), of which q and k are the first CHANNELS
    means,  # (B, R, CHANNELS) float32, written
    height,
    width,
    columns,
    regions,
    STRIDE: tl.constexpr,
    CHANNELS: tl.constexpr,
    REGION_H: tl.constexpr,
    REGION_W: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """One program: BLOCK_C channels of one region of one image."""
    PARTS: tl.constexpr = (CHANNELS + BLOCK_C - 1) // BLOCK_C
    c = tl.program_id(0) % PARTS * BLOCK_C + tl.arange(0, BLOCK_C)
    region = tl.program_id(0) // PARTS % regions
    image = (tl.program_id(0) // PARTS // regions).to(tl.int64)
    qkv += image * (height * width) * STRIDE
    total = tl.zeros((BLOCK, BLOCK_C), tl.float32)
    count = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, REGION_H * REGION_W, BLOCK):
        token = first + tl.arange(0, BLOCK)
        y, x = locate(region, token, columns, REGION_H, REGION_W)
        exists = (token < REGION_H * REGION_W) & (y < height) & (x < width)
        place = (y * width + x)[:, None] * STRIDE + c[None, :]
        mask = exists[:, None] & (c < CHANNELS)[None, :]
        total += tl.load(qkv + place, mask=mask, other=0.0).to(tl.float32)
        count += exists.to(tl.float32)
    mean = tl.sum(total, 0) / tl.sum(count, 0)
    tl.store(means + (image * regions + region) * CHANNELS + c, mean, mask=c < CHANNELS)


@triton.jit
def choice_kernel(
    means,  # (B, R, 2·WIDTH) float32: mean queries, mean keys
    routes,  # (B, R, topk) int64, written
    regions,
    topk,
    WIDTH: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """One program: the routes of BLOCK_Q regions of one image."""
    parts = (regions + BLOCK_Q - 1) // BLOCK_Q
    image = (tl.program_id(0) // parts).to(tl.int64)
    query = tl.program_id(0) % parts * BLOCK_Q + tl.arange(0, BLOCK_Q)
    key = tl.arange(0, BLOCK_R)
    means += image * regions * (2 * WIDTH)
    scores = tl.zeros((BLOCK_Q, BLOCK_R), tl.float32)
    for first in range(0, WIDTH, BLOCK_C):
        c = first + tl.arange(0, BLOCK_C)
        q_mask = (query < regions)[:, None] & (c < WIDTH)[None, :]
        k_mask = (key < regions)[:, None] & (c < WIDTH)[None, :]
        q = tl.load(means + query[:, None] * (2 * WIDTH) + c[None, :], mask=q_mask, other=0.0)
        k = tl.load(means + WIDTH + key[:, None] * (2 * WIDTH) + c[None, :], mask=k_mask, other=0.0)
        scores += tl.dot(q, tl.trans(k), input_precision="ieee")
    scores = tl.where(scores == scores, scores, -3e38)  # NaN comes last: a route must stay a region
    scores = tl.where((key < regions)[None, :], tl.maximum(scores, -3e38), float("-inf"))
    routes += (image * regions + query) * topk
    for slot in range(topk):
        best = tl.argmax(scores, 1)
        tl.store(routes + slot, best.to(tl.int64), mask=query < regions)
        scores = tl.where(key[None, :] == best[:, None], float("-inf"), scores)


def means_launch(qkv: Tensor, means: Tensor, region: tuple[int, int]) -> Launch:
    """Mean q and k of each region's real tokens: (B, H, W, C') to (B, R, 2·qk_dim) float32."""
    B, H, W, stride = qkv.shape
    regions, channels = means.shape[1:]
    block = min(64, power_of_two(region[0] * region[1]))
    block_c = min(256, 4096 // block)  # a tile of at most 4096 values: 32 a thread of four warps
    constants = {
        "STRIDE": stride,
        "CHANNELS": channels,
        "REGION_H": region[0],
        "REGION_W": region[1],
        "BLOCK": block,
        "BLOCK_C": block_c,
    }
    programs = B * regions * -(-channels // block_c)
    arguments = (qkv, means, H, W, -(-W // region[1]), regions)
    return Launch(means_kernel, programs, arguments, constants, warps=max(1, block * block_c // 1024))


def choice_launch(means: Tensor, routes: Tensor) -> Launch:
    """The ``topk`` best regions of each, best first: (B, R, 2·qk_dim) to (B, R, topk)."""
    B, regions, topk = routes.shape
    constants = {
        "WIDTH": means.shape[2] // 2,
        "BLOCK_Q": 16,
        "BLOCK_R": max(16, power_of_two(regions)),
        "BLOCK_C": 32,
    }
    return Launch(choice_kernel, B * -(-regions // 16), (means, routes, regions, topk), constants, warps=4)
