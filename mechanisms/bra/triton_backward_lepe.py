"""Gradients of LePE's weight and bias, beside the fused kernels of bi-level routing attention.

dW[c, tap] = Σ v[token + tap, c] · dO[token, c], db[c] = Σ dO[token, c], over all tokens of all images. v is
read from the projection's output as it lies (torch's convolution would copy it out first). A program takes
a chunk of tokens and 32 channels, walks the taps, and for each the chunk, in runs of BLOCK tokens: partial
sums stay in registers, and chunk and halo (512 tokens of 32 channels in bf16: 32 KiB twice) in the L1 cache,
so DRAM sees v and dO once. A tile of 32 channels is 64 or 128 contiguous bytes a token. Partial sums are
written as (chunks, K² + 1, C) float32 and added up by torch: no atomics, a fixed order.
"""

# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl
from torch import Tensor

from attnbench.mechanisms.bra.triton_launch import Launch

CHUNK = 512
"""Tokens of a program."""


@triton.jit
def backward_lepe_kernel(
    qkv,  # (B, H, W, STRIDE), of which v is the last C channels
    grad_out,  # (B, H, W, C)
    partial,  # (B·chunks, KERNEL² + 1, C) float32; the last row is the bias's
    height,
    width,
    chunks,
    STRIDE: tl.constexpr,
    C: tl.constexpr,
    KERNEL: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """One program: a chunk of one image, BLOCK_C channels."""
    PARTS: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    chunk = tl.program_id(0) // PARTS % chunks
    image = (tl.program_id(0) // PARTS // chunks).to(tl.int64)
    c = tl.program_id(0) % PARTS * BLOCK_C + tl.arange(0, BLOCK_C)
    v_map = qkv + image * (height * width) * STRIDE + (STRIDE - C)
    grad_out += image * (height * width) * C
    partial += (image * chunks + chunk) * (KERNEL * KERNEL + 1) * C
    for tap in range(KERNEL * KERNEL + 1):
        dy, dx = tap // KERNEL - KERNEL // 2, tap % KERNEL - KERNEL // 2
        total = tl.zeros((BLOCK, BLOCK_C), tl.float32)
        for first in range(0, CHUNK, BLOCK):
            token = chunk * CHUNK + first + tl.arange(0, BLOCK)
            y, x = token // width, token % width
            inside = ((y < height)[:, None]) & (c < C)[None, :]
            grad = tl.load(grad_out + token[:, None] * C + c[None, :], mask=inside, other=0.0).to(tl.float32)
            if tap < KERNEL * KERNEL:
                near_y, near_x = y + dy, x + dx
                near = (near_y >= 0) & (near_y < height) & (near_x >= 0) & (near_x < width)
                place = (near_y * width + near_x)[:, None] * STRIDE + c[None, :]
                v = tl.load(v_map + place, mask=inside & near[:, None], other=0.0)
                total += grad * v.to(tl.float32)
            else:
                total += grad
        tl.store(partial + tap * C + c, tl.sum(total, 0), mask=c < C)


def chunks_of(height: int, width: int) -> int:
    """Programs that share an image."""
    return -(-height * width // CHUNK)


def backward_lepe_launch(qkv: Tensor, grad_out: Tensor, partial: Tensor, kernel: int) -> Launch:
    """The kernel on a problem: ``partial`` is written, (B·chunks, K² + 1, C) float32."""
    B, H, W, C = grad_out.shape
    sizes = {"STRIDE": qkv.shape[3], "C": C, "KERNEL": kernel}
    return Launch(
        backward_lepe_kernel,
        B * chunks_of(H, W) * -(-C // 32),
        (qkv, grad_out, partial, H, W, chunks_of(H, W)),
        {**sizes, "CHUNK": CHUNK, "BLOCK": 64, "BLOCK_C": 32},
        warps=4,
    )
