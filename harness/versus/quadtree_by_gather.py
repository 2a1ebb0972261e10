"""QuadTree's official module on any device: its two CUDA operators by torch's gather."""

from pathlib import Path

import torch
from torch import Tensor

from attnbench.harness.versus.calls import as_sequence
from attnbench.harness.versus.clones import load
from attnbench.harness.versus.pair import Pair
from attnbench.harness.versus.ported import own, pair
from attnbench.registry import Site


def quadtree(folder: Path, site: Site) -> Pair:
    """QuadTree's ``QuadtreeAttention`` of form B, its two CUDA operators by torch's gather."""
    module = load(
        folder,
        "Tangshitao/QuadTreeAttention",
        "classification/quadtree_attention.py",
        root="QuadTreeAttention",
        absent=("score_computation_cuda", "value_aggregation_cuda"),
    )
    operators = module.QTAttB.process_fine_level.__globals__
    operators.update(score_computation_op=scores, value_aggregation_op=values)
    levels = (4, 3, 2, 1)[site.stage]
    kwargs = dict(dim=site.dim, num_heads=site.num_heads, qkv_bias=True, sr_ratio=levels, attn_type="B")
    official = module.QuadtreeAttention(**kwargs)
    ours = own("quadtree", "quadtree", official, site, kwargs)
    return pair(official, ours, as_sequence(official, site.height, site.width))


def scores(query: Tensor, key: Tensor, index: Tensor) -> Tensor:
    """Products of queries with the keys that an index names.

    Args:
        query: (B, N, 4, heads, d), of the four tokens under one of the level above.
        key: (B, M, heads, d).
        index: (B, N, K, heads), of keys.

    Returns:
        (B, N, 4, K, heads).
    """
    return torch.einsum("bnfhd,bnkhd->bnfkh", query, _taken(key, index))


def values(score: Tensor, value: Tensor, index: Tensor) -> Tensor:
    """Sums of the values that an index names, weighted.

    Args:
        score, index: (B, N, 4, K, heads); the index is the same for the four.
        value: (B, M, heads, d).

    Returns:
        (B, N, 4, heads, d).
    """
    return torch.einsum("bnfkh,bnkhd->bnfhd", score, _taken(value, index[:, :, 0]))


def _taken(x: Tensor, index: Tensor) -> Tensor:
    """(B, M, heads, d) at (B, N, K, heads): (B, N, K, heads, d)."""
    flat = index.flatten(1, 2).unsqueeze(-1).expand(-1, -1, -1, x.shape[-1])
    return x.gather(1, flat).unflatten(1, index.shape[1:3])
