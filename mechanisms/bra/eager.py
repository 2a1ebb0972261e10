"""The tensor functions of bi-level routing attention: order of tokens, routing, attention along routes.

Inside, tokens lie in *region order*: (B, heads, R, n, d) for R regions of n tokens, both row-major. Then a
region of one head is one contiguous row, gathering regions copies whole rows, and the matrix products
that follow read them as they lie.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from attnbench.mechanisms._attend import attend
from attnbench.mechanisms._local import depthwise
from attnbench.mechanisms._windows import pad_map


def map_attention(
    qkv: Tensor,
    routes: Tensor,
    lepe_weight: Tensor | None,
    lepe_bias: Tensor | None,
    *,
    num_heads: int,
    region: tuple[int, int],
    scale: float,
    attend_padding: bool,
    dim: int | None = None,
    method: str = "gathered",
    chunk: int | None = None,
    impl: str = "eager",
) -> Tensor:
    """All of the mechanism between its two projections but the routing, on a map as it lies in memory.

    The truth that the fused kernels are compared with; they take the same arguments up to ``attend_padding``.

    Args:
        qkv: (B, H, W, 2·qk_dim + C), the projection's output q | k | v, channel = head · d + channel of it.
        routes: (B, R, k) int64 numbers of routed regions; R = ceil(H/h) · ceil(W/w), row-major.
        lepe_weight: (C, 1, K, K) depth-wise kernel of the local term, K odd; ``None`` for no local term.
        lepe_bias: (C,), or ``None``.
        num_heads: divides qk_dim and C.
        region: (h, w) tokens of a region; the last ones may reach beyond the map.
        scale: factor on the logits.
        attend_padding: tokens beyond the map are keys and values of zero (True), or not attended to.
        dim: C; ``None`` for that of ``lepe_weight``, or a third of the channels of ``qkv`` without it.
        method: ``gathered`` or ``masked``, see the functions of these names.
        chunk: regions to attend for at a time, by ``gathered``; ``None`` for all.
        impl: of :func:`attend`.

    Returns:
        (B, H, W, C), contiguous or not.
    """
    H, W = qkv.shape[1:3]
    if dim is None:
        dim = qkv.shape[3] // 3 if lepe_weight is None else lepe_weight.shape[0]
    qk_dim = (qkv.shape[3] - dim) // 2
    padded = bool(H % region[0] or W % region[1])
    real = real_tokens((H, W), region, qkv.device) if padded and not attend_padding else None
    q, k, v = (
        to_regions(t, region, num_heads) for t in pad_map(qkv, region).split((qk_dim, qk_dim, dim), dim=-1)
    )
    if method == "masked":
        out = masked_attention(q, k, v, routes, scale=scale, real=real, impl=impl)
    elif chunk is not None and chunk < q.shape[2]:
        out = chunked_attention(q, k, v, routes, chunk, scale=scale, real=real, impl=impl)
    else:
        out = gathered_attention(q, k, v, routes, scale=scale, real=real, impl=impl)
    out = from_regions(out, region, (H, W))
    if lepe_weight is not None:
        out = out + depthwise(qkv[..., -dim:], lepe_weight, lepe_bias)
    return out


def to_regions(x: Tensor, region: tuple[int, int], num_heads: int) -> Tensor:
    """(B, H, W, C), H and W multiples of the region, to (B, heads, R, n, C / heads)."""
    h, w = region
    x = x.unflatten(3, (num_heads, -1)).unflatten(2, (-1, w)).unflatten(1, (-1, h))
    return x.permute(0, 5, 1, 3, 2, 4, 6).flatten(4, 5).flatten(2, 3)


def from_regions(x: Tensor, region: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Undo :func:`to_regions` and crop to ``size``: (B, heads, R, n, d) to (B, H, W, heads·d)."""
    H, W = size
    x = x.unflatten(3, region).unflatten(2, (-1, -(-W // region[1])))
    return x.permute(0, 2, 4, 3, 5, 1, 6).flatten(5, 6).flatten(3, 4).flatten(1, 2)[:, :H, :W]


def real_tokens(size: tuple[int, int], region: tuple[int, int], device: torch.device) -> Tensor:
    """(R, n) bool: tokens, in region order, of the map ``size``; the others pad it to whole regions."""
    rows, columns = (
        (torch.arange(-(-length // step) * step, device=device) < length).view(-1, step)
        for length, step in zip(size, region, strict=True)
    )
    return (rows[:, None, :, None] & columns[None, :, None, :]).flatten(2, 3).flatten(0, 1)


def route(qkv: Tensor, qk_dim: int, region: tuple[int, int], topk: int) -> Tensor:
    """Choose for each region the ``topk`` regions whose mean key agrees best with its mean query.

    All heads decide together, and no gradient passes: the result is indices. Cost: R²·qk_dim MACs.

    Args:
        qkv: (B, H, W, C'), a map that begins with ``qk_dim`` channels of queries and as many of keys.
        region: (h, w) tokens of a region. Means are of real tokens; a region has at least one.
        topk: on a map with fewer regions, all of them are chosen.

    Returns:
        (B, R, topk) region numbers, best first.
    """
    # All channels, values too: pooling a part of them would first copy it. Cells are cut at the border.
    means = F.avg_pool2d(qkv.permute(0, 3, 1, 2), region, ceil_mode=True).flatten(2)  # (B, C', R)
    q, k = means[:, :qk_dim], means[:, qk_dim : 2 * qk_dim]
    scores = q.transpose(1, 2) @ k
    return scores.topk(min(topk, scores.shape[-1]), dim=-1).indices


def gathered_attention(
    q: Tensor, k: Tensor, v: Tensor, routes: Tensor, *, scale: float, real: Tensor | None, impl: str
) -> Tensor:
    """Attend to the tokens of routed regions, gathered. Cost: 2·N·topk·n·C MACs.

    Args:
        q, k, v: (B, heads, R, n, d); ``q`` may have other R (a part of the regions), ``v`` another d.
        routes: (B, R of ``q``, topk) region numbers.
        scale: factor on the logits.
        real: (R, n) bool, keys that may be attended to; ``None`` for all. Each region must have one.
        impl: of :func:`attend`.

    Returns:
        (B, heads, R, n, d of ``v``).
    """
    B, h, R, _, v_dim = v.shape
    image = torch.arange(B * h, device=q.device).view(B, h, 1, 1)
    rows = image * R + routes[:, None]  # (B, heads, R of the queries, topk)
    bias = None
    if real is not None:
        bias = _closed(~real, q)[routes].flatten(2)[:, None, :, None]  # (B, 1, R of the queries, 1, topk·n)
        bias = bias.expand(-1, h, -1, -1, -1).flatten(0, 1)
    # Rows by embedding: its backward adds up rows, where gather's fills a (B, R, R, n, C) tensor with zeros.
    k, v = (F.embedding(rows.flatten(0, 1), t.reshape(B * h * R, -1)) for t in (k, v))
    k, v = (t.view(B * h, rows.shape[2], -1, d) for t, d in ((k, q.shape[-1]), (v, v_dim)))
    return attend(q.flatten(0, 1), k, v, scale=scale, bias=bias, impl=impl).unflatten(0, (B, h))


def chunked_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    routes: Tensor,
    chunk: int,
    *,
    scale: float,
    real: Tensor | None,
    impl: str,
) -> Tensor:
    """:func:`gathered_attention` for ``chunk`` regions at a time, whose copies and logits are then dropped.

    For gradients they are computed once more (checkpointing), so memory is that of one chunk there too.
    """

    def part(q: Tensor, k: Tensor, v: Tensor, routes: Tensor) -> Tensor:
        return gathered_attention(q, k, v, routes, scale=scale, real=real, impl=impl)

    out = []
    for some, chosen in zip(q.split(chunk, 2), routes.split(chunk, 1), strict=True):
        if torch.is_grad_enabled():
            out.append(checkpoint(part, some, k, v, chosen, use_reentrant=False, preserve_rng_state=False))
        else:
            out.append(part(some, k, v, chosen))
    return torch.cat(out, dim=2)


def masked_attention(
    q: Tensor, k: Tensor, v: Tensor, routes: Tensor, *, scale: float, real: Tensor | None, impl: str
) -> Tensor:
    """The same as :func:`gathered_attention` by a mask on all N keys. Issues 2·N²·C MACs, gathers nothing."""
    B, _, R, n, _ = q.shape
    closed = torch.ones(B, R, R, dtype=torch.bool, device=q.device).scatter(2, routes, False)
    bias = _closed(closed, q)[:, None, :, None, :, None]
    if real is not None:
        bias = bias + _closed(~real, q)
    bias = bias.expand(B, 1, R, n, R, n).reshape(B, 1, R * n, R * n)
    q, k, v = (t.flatten(2, 3) for t in (q, k, v))  # (B, heads, N, d)
    return attend(q, k, v, scale=scale, bias=bias, impl=impl).unflatten(2, (R, n))


def _closed(closed: Tensor, like: Tensor) -> Tensor:
    """A bias in the dtype of ``like``: −inf where ``closed``, 0 elsewhere."""
    return torch.zeros_like(closed, dtype=like.dtype).masked_fill(closed, float("-inf"))
