"""Forward kernel of fused bi-level routing attention. Its eager twin: ``eager.map_attention``.

Fused: the reading of routed keys and values by index, logits, mask, softmax, weighted sum, and LePE with its
bias. Written are the output and one float32 a query and head (the logarithm of the softmax's sum).
Neither gathered keys and values nor logits ever lie in memory.

Loads: q, k and v straight from the projection's output, 16 bytes a thread, contiguous over the channels
of a head (see ``triton_tiles``); a program reads its queries once and each routed key once.
Compulsory bytes: read 2·qk_dim + C, write C values a token, of which the programs' order (heads first)
makes whole cache lines.

Tiles: up to 64 queries × 64 keys. With k·n = 64 (stages 1 to 3 of BiFormer) the routed keys of a region
are one tile, the loop runs once, and softmax is not rescaled. 64 rows are what Hopper's matrix unit takes
(four warps); regions of 16 tokens take tiles of 16 rows, one or two warps, and many programs a
multiprocessor hide the latency.
"""

# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl
from torch import Tensor

from attnbench.mechanisms.bra.triton_launch import Launch, Problem
from attnbench.mechanisms.bra.triton_tiles import convolve, key_tile, load_tokens, query_tile, store_tokens


@triton.jit
def forward_kernel(
    qkv,  # (B, H, W, HEADS·(2·QK + V))
    index,  # (B, R, TOPK) int64, or (B, R, words) int32 where MASKED
    lepe_weight,  # (LEPE², HEADS·V) or None
    lepe_bias,  # (HEADS·V,) or None
    out,  # (B, H, W, HEADS·V)
    lse,  # (B, HEADS, H·W) float32: log2 of the sum of exp2
    height,
    width,
    columns,
    regions,
    tiles,  # query tiles of an image
    scale,
    HEADS: tl.constexpr,
    QK: tl.constexpr,
    V: tl.constexpr,
    REGION_H: tl.constexpr,
    REGION_W: tl.constexpr,
    TOPK: tl.constexpr,
    ATTEND_PADDING: tl.constexpr,
    LEPE: tl.constexpr,
    MASKED: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_QK: tl.constexpr,
    BLOCK_V: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One program: a tile of queries of one image and head."""
    CHANNELS: tl.constexpr = HEADS * (2 * QK + V)
    head = tl.program_id(0) % HEADS
    image = (tl.program_id(0) // HEADS // tiles).to(tl.int64)
    tile = tl.program_id(0) // HEADS % tiles
    region, y, x, exists = query_tile(tile, height, width, columns, REGION_H, REGION_W, MASKED, BLOCK_M)
    token = y * width + x
    q_map = qkv + image * (height * width) * CHANNELS + head * QK
    k_map = q_map + HEADS * QK
    v_map = qkv + image * (height * width) * CHANNELS + 2 * HEADS * QK + head * V
    if MASKED:
        index += image * regions * ((regions + 31) // 32)
        key_tiles = (regions + GROUP - 1) // GROUP
    else:
        index += image * regions * TOPK
        key_tiles = (TOPK * REGION_H * REGION_W + BLOCK_N - 1) // BLOCK_N

    q = load_tokens(q_map, token, exists, CHANNELS, QK, BLOCK_QK)
    total = tl.zeros((BLOCK_M, BLOCK_V), tl.float32)
    highest = tl.full((BLOCK_M,), -1e30, tl.float32)  # finite: a first tile may be all masked
    weight = tl.zeros((BLOCK_M,), tl.float32)
    for step in range(key_tiles):
        key, key_exists, visible = key_tile(
            index, region, exists, step, height, width, columns, regions,
            REGION_H, REGION_W, TOPK, MASKED, ATTEND_PADDING, GROUP, BLOCK_N,
        )  # fmt: skip
        k = load_tokens(k_map, key, key_exists, CHANNELS, QK, BLOCK_QK)
        v = load_tokens(v_map, key, key_exists, CHANNELS, V, BLOCK_V)
        logits = tl.dot(q, tl.trans(k), input_precision=PRECISION) * (scale * 1.4426950408889634)
        logits = tl.where(visible, logits, float("-inf"))
        higher = tl.maximum(highest, tl.max(logits, 1))
        p = tl.exp2(logits - higher[:, None])
        shrink = tl.exp2(highest - higher)
        weight = weight * shrink + tl.sum(p, 1)
        total = total * shrink[:, None] + tl.dot(p.to(v.dtype), v, input_precision=PRECISION)
        highest = higher

    total = total / weight[:, None]
    if LEPE > 0:
        taps = lepe_weight + head * V
        total += convolve(
            v_map, taps, y, x, exists, height, width, CHANNELS, HEADS * V, V, BLOCK_V, LEPE, False, BLOCK_M
        )
        if lepe_bias is not None:
            d = tl.arange(0, BLOCK_V)
            total += tl.load(lepe_bias + head * V + d, mask=d < V, other=0.0).to(tl.float32)[None, :]
    out_map = out + image * (height * width) * (HEADS * V) + head * V
    store_tokens(out_map, token, exists, total, HEADS * V, V, BLOCK_V)
    row = (image * HEADS + head) * (height * width)
    tl.store(lse + row + token, highest + tl.log2(weight), mask=exists)


def forward_launch(
    qkv: Tensor,
    index: Tensor,
    lepe_weight: Tensor | None,
    lepe_bias: Tensor | None,
    out: Tensor,
    lse: Tensor,
    problem: Problem,
) -> Launch:
    """The kernel on a problem; arguments as the kernel's. It writes ``out`` and ``lse``."""
    tiles = problem.tiles("forward")
    per_image = problem.query_tiles(tiles)
    tensors = (qkv, index, lepe_weight, lepe_bias, out, lse)
    return Launch(
        forward_kernel,
        problem.batch * per_image * problem.heads,
        (*tensors, *problem.sizes, per_image, problem.scale),
        problem.constants(tiles),
        tiles.warps,
        tiles.stages,
    )
