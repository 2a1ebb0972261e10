"""Who reads whom in bi-level routing attention: the weights of some tokens, and the regions routed to.

For pictures and tests: dense over all tokens, one image, no gradient needed.
"""

import torch
from torch import Tensor

from attnbench.mechanisms._windows import pad_map


def region_numbers(size: tuple[int, int], region: tuple[int, int]) -> Tensor:
    """(H', W') int64: the region of each token of a map ``size`` padded to whole regions."""
    (h, w), (rows, columns) = region, (-(-n // r) for n, r in zip(size, region, strict=True))
    row, column = torch.arange(rows * h) // h, torch.arange(columns * w) // w
    return row[:, None] * columns + column


def attention_weights(
    qkv: Tensor,
    routes: Tensor,
    queries: Tensor,
    *,
    num_heads: int,
    qk_dim: int,
    region: tuple[int, int],
    scale: float,
    attend_padding: bool,
) -> Tensor:
    """Weights with which tokens read the tokens of the regions that theirs is routed to.

    Args:
        qkv: (1, H, W, C'), begins with ``qk_dim`` channels of queries and as many of keys.
        routes: (1, R, k) numbers of routed regions.
        queries: (Q,) int64 numbers of tokens of the H × W map, row-major.
        num_heads: divides ``qk_dim``.
        region: (h, w) tokens of a region.
        scale: factor on the logits.
        attend_padding: tokens beyond the map are keys of zero; their weights are left out of the answer.

    Returns:
        (Q, heads, H·W); a query's weights add up to one less those of padding.
    """
    H, W = qkv.shape[1:3]
    numbers = region_numbers((H, W), region).to(qkv.device)
    padded = pad_map(qkv, region)[0].flatten(0, 1)  # (N', C')
    rows, columns = queries.div(W, rounding_mode="floor"), queries % W
    at = rows * numbers.shape[1] + columns  # of the queries, on the padded map
    q, k = (padded[:, i * qk_dim : (i + 1) * qk_dim].unflatten(1, (num_heads, -1)) for i in (0, 1))
    logits = torch.einsum("qhd,nhd->qhn", q[at] * scale, k)
    chosen = routes[0][numbers.flatten()[at]]  # (Q, k)
    real = torch.zeros_like(numbers, dtype=torch.bool)
    real[:H, :W] = True
    open_ = (chosen[:, :, None] == numbers.flatten()).any(1)
    if not attend_padding:
        open_ = open_ & real.flatten()
    weights = logits.masked_fill(~open_[:, None], float("-inf")).softmax(-1)
    return weights.unflatten(2, tuple(numbers.shape))[:, :, :H, :W].flatten(2)
