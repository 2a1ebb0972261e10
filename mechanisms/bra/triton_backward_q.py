"""Gradient of the queries in fused bi-level routing attention. Eager twin: autograd of ``eager``.

Fused: logits and weights p anew from q, k and the saved log-sum-exp, dp = dO·vᵀ, their row sum
delta = Σ p·dp, and dQ = scale · Σ p·(dp − delta)·k. dQ goes straight to its channels of the map's gradient;
delta, one float32 a query and head, is written for the kernel of keys and values.

Delta is formed here from p and dp, not from dO·O as usual: LePE is part of the saved output, and the bare
attention would be one more map to write and keep. Where the routed keys are one tile (stages 1 to 3 of
BiFormer: 64 keys) it costs nothing, p and dp being at hand; else the keys are walked twice.

Loads: as in the forward kernel, and dO as q; read 3·C + C, written C values a token, routed keys read
from the L2 cache where regions share them. Tiles: as forward; accumulators are dQ alone, but p and dp are
both held, so float32 takes smaller tiles.
"""

# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl
from torch import Tensor

from attnbench.mechanisms.bra.triton_launch import Launch, Problem
from attnbench.mechanisms.bra.triton_tiles import key_tile, load_tokens, query_tile, store_tokens


@triton.jit
def backward_q_kernel(
    qkv,  # (B, H, W, HEADS·(2·QK + V))
    index,  # (B, R, TOPK) int64, or (B, R, words) int32 where MASKED
    grad_out,  # (B, H, W, HEADS·V)
    lse,  # (B, HEADS, H·W) float32
    delta,  # (B, HEADS, H·W) float32, written
    grad_qkv,  # as qkv; the channels of q are written
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
    ONE_TILE: tl.constexpr = (not MASKED) and TOPK * REGION_H * REGION_W <= BLOCK_N
    head = tl.program_id(0) % HEADS
    image = (tl.program_id(0) // HEADS // tiles).to(tl.int64)
    tile = tl.program_id(0) // HEADS % tiles
    region, y, x, exists = query_tile(tile, height, width, columns, REGION_H, REGION_W, MASKED, BLOCK_M)
    token = y * width + x
    first = image * (height * width)
    k_map = qkv + first * CHANNELS + HEADS * QK + head * QK
    v_map = qkv + first * CHANNELS + 2 * HEADS * QK + head * V
    if MASKED:
        index += image * regions * ((regions + 31) // 32)
        key_tiles = (regions + GROUP - 1) // GROUP
    else:
        index += image * regions * TOPK
        key_tiles = (TOPK * REGION_H * REGION_W + BLOCK_N - 1) // BLOCK_N

    q = load_tokens(qkv + first * CHANNELS + head * QK, token, exists, CHANNELS, QK, BLOCK_QK)
    grad = load_tokens(grad_out + first * (HEADS * V) + head * V, token, exists, HEADS * V, V, BLOCK_V)
    row = (image * HEADS + head) * (height * width) + token
    sums = tl.load(lse + row, mask=exists, other=float("inf"))  # then p is zero
    grad_q = tl.zeros((BLOCK_M, BLOCK_QK), tl.float32)
    row_sum = tl.zeros((BLOCK_M,), tl.float32)
    if not ONE_TILE:
        for step in range(key_tiles):
            _, p, grad_p = _weights(
                q, grad, sums, k_map, v_map, index, region, exists, step, height, width, columns, regions,
                scale, CHANNELS, QK, V, REGION_H, REGION_W, TOPK, ATTEND_PADDING, MASKED, GROUP, BLOCK_N,
                BLOCK_QK, BLOCK_V, PRECISION,
            )  # fmt: skip
            row_sum += tl.sum(p * grad_p, 1)
    for step in range(key_tiles):
        k, p, grad_p = _weights(
            q, grad, sums, k_map, v_map, index, region, exists, step, height, width, columns, regions,
            scale, CHANNELS, QK, V, REGION_H, REGION_W, TOPK, ATTEND_PADDING, MASKED, GROUP, BLOCK_N,
            BLOCK_QK, BLOCK_V, PRECISION,
        )  # fmt: skip
        if ONE_TILE:
            row_sum = tl.sum(p * grad_p, 1)
        grad_logits = p * (grad_p - row_sum[:, None])
        grad_q += tl.dot(grad_logits.to(k.dtype), k, input_precision=PRECISION)

    tl.store(delta + row, row_sum, mask=exists)
    grad_q_map = grad_qkv + first * CHANNELS + head * QK
    store_tokens(grad_q_map, token, exists, grad_q * scale, CHANNELS, QK, BLOCK_QK)


@triton.jit
def _weights(
    q, grad, sums, k_map, v_map, index, region, exists, step, height, width, columns, regions, scale,
    CHANNELS: tl.constexpr, QK: tl.constexpr, V: tl.constexpr, REGION_H: tl.constexpr,
    REGION_W: tl.constexpr, TOPK: tl.constexpr, ATTEND_PADDING: tl.constexpr, MASKED: tl.constexpr,
    GROUP: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_QK: tl.constexpr, BLOCK_V: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile of keys k; the weights p of its keys [queries, keys] in float32, and their gradient."""
    key, key_exists, visible = key_tile(
        index, region, exists, step, height, width, columns, regions,
        REGION_H, REGION_W, TOPK, MASKED, ATTEND_PADDING, GROUP, BLOCK_N,
    )  # fmt: skip
    k = load_tokens(k_map, key, key_exists, CHANNELS, QK, BLOCK_QK)
    v = load_tokens(v_map, key, key_exists, CHANNELS, V, BLOCK_V)
    logits = tl.dot(q, tl.trans(k), input_precision=PRECISION) * (scale * 1.4426950408889634)
    p = tl.exp2(tl.where(visible, logits, float("-inf")) - sums[:, None])
    return k, p, tl.dot(grad, tl.trans(v), input_precision=PRECISION)


def backward_q_launch(
    qkv: Tensor,
    index: Tensor,
    grad_out: Tensor,
    lse: Tensor,
    delta: Tensor,
    grad_qkv: Tensor,
    problem: Problem,
) -> Launch:
    """The kernel on a problem; it writes ``delta`` and the share of q in ``grad_qkv``."""
    tiles = problem.tiles("backward_q")
    per_image = problem.query_tiles(tiles)
    constants = problem.constants(tiles)
    del constants["LEPE"]
    return Launch(
        backward_q_kernel,
        problem.batch * per_image * problem.heads,
        (qkv, index, grad_out, lse, delta, grad_qkv, *problem.sizes, per_image, problem.scale),
        constants,
        tiles.warps,
        tiles.stages,
    )
