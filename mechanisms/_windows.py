"""Cutting a map into windows and putting it together again; padding that is cropped exactly."""

import torch
from torch import Tensor
from torch.nn import functional as F


def padding(size: int, window: int) -> int:
    """Tokens missing from ``size`` to the next multiple of ``window``."""
    return -size % window


def pad_map(x: Tensor, window: tuple[int, int]) -> Tensor:
    """Zero-pad (..., H, W, C) at the bottom and right to multiples of ``window``."""
    bottom, right = padding(x.shape[-3], window[0]), padding(x.shape[-2], window[1])
    return F.pad(x, (0, 0, 0, right, 0, bottom)) if bottom or right else x


def partition(x: Tensor, window: tuple[int, int]) -> Tensor:
    """(..., H, W, C) into (..., windows, tokens, C): windows and their tokens in row-major order.

    H and W must be multiples of the window.
    """
    *lead, H, W, C = x.shape
    h, w = window
    x = x.reshape(*lead, H // h, h, W // w, w, C).transpose(-4, -3)
    return x.reshape(*lead, (H // h) * (W // w), h * w, C)


def merge(windows: Tensor, window: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Undo :func:`partition` and crop to ``size``: (..., windows, tokens, C) to (..., H, W, C)."""
    *lead, _, _, C = windows.shape
    (h, w), (H, W) = window, size
    rows, columns = H + padding(H, h), W + padding(W, w)
    x = windows.reshape(*lead, rows // h, columns // w, h, w, C).transpose(-4, -3)
    return x.reshape(*lead, rows, columns, C)[..., :H, :W, :]


def relative_position_index(window: tuple[int, int], table: tuple[int, int] | None = None) -> Tensor:
    """(L, L) row of a bias table for each query and key of an h × w window.

    The table belongs to a window ``table`` (default: the same) at least as large, and has
    (2·table_h − 1)(2·table_w − 1) rows: (Δy + table_h − 1)(2·table_w − 1) + (Δx + table_w − 1) with
    Δ = query − key (Swin's convention).
    """
    h, w = window
    th, tw = table or window
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    y, x = y.flatten(), x.flatten()
    dy = y[:, None] - y[None, :] + th - 1
    dx = x[:, None] - x[None, :] + tw - 1
    return dy * (2 * tw - 1) + dx


def same_label(labels: Tensor) -> Tensor:
    """(N, N) bool: tokens whose labels (N,) are equal."""
    return labels[:, None] == labels[None, :]
