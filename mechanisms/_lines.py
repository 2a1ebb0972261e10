"""Rows and columns of a map: what the mechanisms that attend along an axis share."""

import torch
from torch import Tensor


def line_bias(table: Tensor, length: int) -> Tensor:
    """(heads, L, L) position bias between the L tokens of one line.

    Args:
        table: (2·T − 1, heads), one row per Δ = query − key from −(T − 1) to T − 1.
        length: L. Distances that the table lacks, which exist where L > T, take its outermost entry.
    """
    farthest = table.shape[0] // 2
    place = torch.arange(length, device=table.device)
    distance = (place[:, None] - place[None, :]).clamp(-farthest, farthest)
    return table[distance + farthest].permute(2, 0, 1)


def same_row(height: int, width: int) -> Tensor:
    """(N, N) bool: tokens of the same row of a map."""
    row = torch.arange(height).repeat_interleave(width)
    return row[:, None] == row[None, :]


def same_column(height: int, width: int) -> Tensor:
    """(N, N) bool: tokens of the same column of a map."""
    column = torch.arange(width).repeat(height)
    return column[:, None] == column[None, :]
