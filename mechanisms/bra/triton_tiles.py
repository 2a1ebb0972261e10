"""What the fused kernels of bi-level routing attention share: where tokens lie, reading them, LePE.

Device functions, inlined into the kernels. Region tokens are never copied together: their places on the
map follow from region number and token number by arithmetic (division by the constants h and w becomes a
multiplication), so the kernels read the projection's output as it lies, (B, H, W, 2·qk_dim + C). A token's
channels of one head are contiguous: head dim 32 in bf16 is 64 bytes, four 16-byte loads side by side, and
programs of neighbouring heads, which read the neighbouring 64 bytes, have neighbouring numbers.
"""

# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl


@triton.jit
def locate(region, token, columns, REGION_H: tl.constexpr, REGION_W: tl.constexpr):
    """Row and column on the map of a region's token; both may lie beyond the map."""
    y = region // columns * REGION_H + token // REGION_W
    x = region % columns * REGION_W + token % REGION_W
    return y, x


@triton.jit
def query_tile(
    tile,
    height,
    width,
    columns,
    REGION_H: tl.constexpr,
    REGION_W: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Queries of a tile: their region (one for all, or one each where MASKED), row, column; which exist."""
    if MASKED:
        token = tile * BLOCK + tl.arange(0, BLOCK)
        y, x = token // width, token % width
        region = y // REGION_H * columns + x // REGION_W
        exists = y < height
    else:
        TILES: tl.constexpr = (REGION_H * REGION_W + BLOCK - 1) // BLOCK
        region = tile // TILES
        token = tile % TILES * BLOCK + tl.arange(0, BLOCK)
        y, x = locate(region, token, columns, REGION_H, REGION_W)
        exists = (token < REGION_H * REGION_W) & (y < height) & (x < width)
    return region, y, x, exists


@triton.jit
def group_tile(
    tile,
    regions,
    columns,
    REGION_H: tl.constexpr,
    REGION_W: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Tokens of GROUP regions, region by region: row, column, bit of the region, which are filled."""
    place = tl.arange(0, BLOCK)
    member = place // (REGION_H * REGION_W)
    region = tile * GROUP + member
    y, x = locate(region, place % (REGION_H * REGION_W), columns, REGION_H, REGION_W)
    return y, x, (tile * GROUP % 32) + member, (member < GROUP) & (region < regions)


@triton.jit
def routed_tile(
    routes,
    tile,
    columns,
    REGION_H: tl.constexpr,
    REGION_W: tl.constexpr,
    TOPK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Tokens of the regions listed at ``routes``, one after another: row, column, which are filled."""
    place = tile * BLOCK + tl.arange(0, BLOCK)
    slot = place // (REGION_H * REGION_W)
    region = tl.load(routes + slot, mask=slot < TOPK, other=0).to(tl.int32)
    y, x = locate(region, place % (REGION_H * REGION_W), columns, REGION_H, REGION_W)
    return y, x, slot < TOPK


@triton.jit
def key_tile(
    index,
    region,
    query_exists,
    tile,
    height,
    width,
    columns,
    regions,
    REGION_H: tl.constexpr,
    REGION_W: tl.constexpr,
    TOPK: tl.constexpr,
    MASKED: tl.constexpr,
    ATTEND_PADDING: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Keys of a tile for a tile of queries: their token on the map, which exist, which a query may see.

    ``index`` is an image's routes (R, TOPK), or its bit mask (R, words) where MASKED.
    """
    if MASKED:
        words = (regions + 31) // 32
        y, x, bit, filled = group_tile(tile, regions, columns, REGION_H, REGION_W, GROUP, BLOCK)
        word = tl.load(index + region * words + tile * GROUP // 32, mask=query_exists, other=-1)
        visible = ((word[:, None] >> bit[None, :]) & 1) != 0
    else:
        y, x, filled = routed_tile(index + region * TOPK, tile, columns, REGION_H, REGION_W, TOPK, BLOCK)
        visible = query_exists[:, None] | True
    exists = filled & (y < height) & (x < width)
    if not ATTEND_PADDING:
        filled = exists
    visible = visible & filled[None, :]
    return y * width + x, exists, visible


@triton.jit
def load_tokens(pointer, token, exists, CHANNELS: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """[tokens, BLOCK_D]: D channels of each token, from ``pointer`` on; zero elsewhere."""
    d = tl.arange(0, BLOCK_D)
    mask = exists[:, None] & (d < D)[None, :]
    return tl.load(pointer + token[:, None] * CHANNELS + d[None, :], mask=mask, other=0.0)


@triton.jit
def store_tokens(
    pointer, token, exists, tile, CHANNELS: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr
):
    """The reverse of :func:`load_tokens`, in the dtype of ``pointer``."""
    d = tl.arange(0, BLOCK_D)
    mask = exists[:, None] & (d < D)[None, :]
    place = pointer + token[:, None] * CHANNELS + d[None, :]
    tl.store(place, tile.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def convolve(
    pointer,
    weight,
    y,
    x,
    exists,
    height,
    width,
    CHANNELS: tl.constexpr,
    WIDTH: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    KERNEL: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """[BLOCK, BLOCK_D] in float32: the depth-wise convolution at (y, x) of D channels of a map.

    The KERNEL² reads of a token and its neighbours hit the L1 cache: from DRAM comes only the halo.
    ``weight`` points to the first channel in (KERNEL², WIDTH): taps first, so that a tap of neighbouring
    channels is one wide load. TRANSPOSED for the gradient.
    """
    d = tl.arange(0, BLOCK_D)
    total = tl.zeros((BLOCK, BLOCK_D), tl.float32)
    for tap in range(KERNEL * KERNEL):
        dy, dx = tap // KERNEL - KERNEL // 2, tap % KERNEL - KERNEL // 2
        if TRANSPOSED:
            dy, dx = -dy, -dx
        near_y, near_x = y + dy, x + dx
        near = exists & (near_y >= 0) & (near_y < height) & (near_x >= 0) & (near_x < width)
        tile = load_tokens(pointer, near_y * width + near_x, near, CHANNELS, D, BLOCK_D)
        factor = tl.load(weight + tap * WIDTH + d, mask=d < D, other=0.0)
        total += tile.to(tl.float32) * factor.to(tl.float32)[None, :]
    return total
