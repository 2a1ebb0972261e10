"""Gradients of keys and values in fused bi-level routing attention. Eager twin: autograd of ``eager``.

Fused: weights p anew from q, k and the saved log-sum-exp; dV = Σ pᵀ·dO plus LePE's share, the transposed
depth-wise convolution of dO; dK = scale · Σ (p·(dp − delta))ᵀ·q. Both go straight to their channels of the
map's gradient. A program holds a tile of keys and adds up over the queries that see it: routed, those of
the inverse list of its region; masked, all of the image under the routing bits. So each gradient is written
once, by one program, in a fixed order: no atomics, no zero fill, the same bits in each run.

Loads: k, v once; q and dO of the routed regions by index, from the map, 16 bytes a thread, contiguous over a
head's channels; log-sum-exp and delta in runs of a region's row. A region is routed to k times on average, so
q and dO come k times, from the L2 cache but for the first.

Tiles: keys by up to 64 queries; two accumulators, p and dp are held at once, the most of all kernels:
float32 takes half the keys. Lists differ in length (some regions are popular); the many programs level that.
"""

# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl
from torch import Tensor

from attnbench.mechanisms.bra.triton_launch import Launch, Problem
from attnbench.mechanisms.bra.triton_tiles import convolve, group_tile, load_tokens, locate, store_tokens


@triton.jit
def backward_kv_kernel(
    qkv,  # (B, H, W, HEADS·(2·QK + V))
    index,  # (B, R·TOPK) int32 inverse lists, or (B, R, words) int32 bits where MASKED
    starts,  # (B, R + 1) int32, None where MASKED
    lepe_weight,  # (LEPE², HEADS·V) or None
    grad_out,  # (B, H, W, HEADS·V)
    lse,  # (B, HEADS, H·W) float32
    delta,  # (B, HEADS, H·W) float32
    grad_qkv,  # as qkv; the channels of k and v are written
    height,
    width,
    columns,
    regions,
    tiles,  # key tiles of an image
    scale,
    HEADS: tl.constexpr,
    QK: tl.constexpr,
    V: tl.constexpr,
    REGION_H: tl.constexpr,
    REGION_W: tl.constexpr,
    TOPK: tl.constexpr,
    LEPE: tl.constexpr,
    MASKED: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_QK: tl.constexpr,
    BLOCK_V: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One program: a tile of keys of one image and head."""
    CHANNELS: tl.constexpr = HEADS * (2 * QK + V)
    TOKENS: tl.constexpr = REGION_H * REGION_W
    head = tl.program_id(0) % HEADS
    image = (tl.program_id(0) // HEADS // tiles).to(tl.int64)
    tile = tl.program_id(0) // HEADS % tiles
    first = image * (height * width)
    q_map = qkv + first * CHANNELS + head * QK
    grad_map = grad_out + first * (HEADS * V) + head * V
    lse += (image * HEADS + head) * (height * width)
    delta += (image * HEADS + head) * (height * width)
    if MASKED:
        y, x, bit, exists = group_tile(tile, regions, columns, REGION_H, REGION_W, GROUP, BLOCK_N)
        index += image * regions * ((regions + 31) // 32) + tile * GROUP // 32
        walked = height * width
    else:
        PARTS: tl.constexpr = (TOKENS + BLOCK_N - 1) // BLOCK_N
        region = tile // PARTS
        member = tile % PARTS * BLOCK_N + tl.arange(0, BLOCK_N)
        y, x = locate(region, member, columns, REGION_H, REGION_W)
        exists = member < TOKENS
        index += image * regions * TOPK
        starts += image * (regions + 1) + region
        index += tl.load(starts)
        walked = (tl.load(starts + 1) - tl.load(starts)) * TOKENS  # TOKENS queries an entry of the list
    exists = exists & (y < height) & (x < width)
    token = y * width + x
    k = load_tokens(q_map + HEADS * QK, token, exists, CHANNELS, QK, BLOCK_QK)
    v_map = qkv + first * CHANNELS + 2 * HEADS * QK + head * V
    v = load_tokens(v_map, token, exists, CHANNELS, V, BLOCK_V)

    grad_k = tl.zeros((BLOCK_N, BLOCK_QK), tl.float32)
    grad_v = tl.zeros((BLOCK_N, BLOCK_V), tl.float32)
    for step in range(0, walked, BLOCK_M):
        place = step + tl.arange(0, BLOCK_M)
        seen = place < walked
        if MASKED:
            query = place
            query_region = query // width // REGION_H * columns + query % width // REGION_W
            words = (regions + 31) // 32
            word = tl.load(index + query_region * words, mask=seen, other=0)
            visible = ((word[None, :] >> bit[:, None]) & 1) != 0
        else:
            query_region = tl.load(index + place // TOKENS, mask=seen, other=0)
            query_y, query_x = locate(query_region, place % TOKENS, columns, REGION_H, REGION_W)
            seen = seen & (query_y < height) & (query_x < width)
            query = query_y * width + query_x
            visible = seen[None, :] & exists[:, None]
        q = load_tokens(q_map, query, seen, CHANNELS, QK, BLOCK_QK)
        grad = load_tokens(grad_map, query, seen, HEADS * V, V, BLOCK_V)
        sums = tl.load(lse + query, mask=seen, other=0.0)
        row_sum = tl.load(delta + query, mask=seen, other=0.0)
        logits = tl.dot(k, tl.trans(q), input_precision=PRECISION) * (scale * 1.4426950408889634)
        p = tl.exp2(tl.where(visible, logits, float("-inf")) - sums[None, :])
        grad_v += tl.dot(p.to(grad.dtype), grad, input_precision=PRECISION)
        grad_p = tl.dot(v, tl.trans(grad), input_precision=PRECISION)
        grad_logits = p * (grad_p - row_sum[None, :])
        grad_k += tl.dot(grad_logits.to(q.dtype), q, input_precision=PRECISION)

    if LEPE > 0:
        taps = lepe_weight + head * V
        grad_v += convolve(
            grad_map, taps, y, x, exists, height, width, HEADS * V, HEADS * V, V, BLOCK_V, LEPE, True, BLOCK_N
        )
    grad_k_map = grad_qkv + first * CHANNELS + HEADS * QK + head * QK
    store_tokens(grad_k_map, token, exists, grad_k * scale, CHANNELS, QK, BLOCK_QK)
    grad_v_map = grad_qkv + first * CHANNELS + 2 * HEADS * QK + head * V
    store_tokens(grad_v_map, token, exists, grad_v, CHANNELS, V, BLOCK_V)


def backward_kv_launch(
    qkv: Tensor,
    index: Tensor,
    starts: Tensor | None,
    lepe_weight: Tensor | None,
    grad_out: Tensor,
    lse: Tensor,
    delta: Tensor,
    grad_qkv: Tensor,
    problem: Problem,
) -> Launch:
    """The kernel on a problem; arguments as the kernel's. It writes k's and v's share of ``grad_qkv``."""
    tiles = problem.tiles("backward_kv")
    per_image = problem.key_tiles(tiles)
    constants = problem.constants(tiles)
    del constants["ATTEND_PADDING"]  # keys beyond the map have no gradient; queries are not there at all
    tensors = (qkv, index, starts, lepe_weight, grad_out, lse, delta, grad_qkv)
    return Launch(
        backward_kv_kernel,
        problem.batch * per_image * problem.heads,
        (*tensors, *problem.sizes, per_image, problem.scale),
        constants,
        tiles.warps,
        tiles.stages,
    )
