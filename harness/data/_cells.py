"""What the probes draw with: a picture is a grid of cells of 4 × 4 pixels, one cell per token.

A cell is a 3 × 3 glyph of black and white (−1, +1; grey is 0) and a frame, its right column and bottom row,
in one of eight colours. A patch embedding of 4 × 4 reads one cell and nothing beside it.
"""

import torch
from torch import Generator, Tensor

from attnbench.harness.probes.probe import CELL

GLYPHS = 512
"""2⁹ patterns of nine pixels."""

COLOURS = 8
"""Corners of the RGB cube."""


def glyph(numbers: Tensor) -> Tensor:
    """(...,) numbers below 512 to (..., 9) pixels."""
    return _bits(numbers, 9)


def colour(numbers: Tensor) -> Tensor:
    """(...,) numbers below 8 to (..., 3) channels."""
    return _bits(numbers, 3)


def draw(generator: Generator, high: int, *shape: int) -> Tensor:
    """Whole numbers below ``high``."""
    return torch.randint(high, shape, generator=generator, device=generator.device)


def choose(generator: Generator, batch: int, among: int, count: int) -> Tensor:
    """(batch, count) distinct numbers below ``among``, each row in random order."""
    rank = torch.rand(batch, among, generator=generator, device=generator.device)
    return rank.topk(count, dim=1).indices


def distinct(generator: Generator, batch: int, among: int, count: int) -> Tensor:
    """(batch, count) distinct numbers below ``among``, every set equally likely, in no random order.

    By R. W. Floyd's rule (Communications of the ACM 30, 1987), which draws ``count`` numbers and not
    ``among``: a number that is there already makes way for the last that could have been drawn.
    """
    chosen = torch.empty(batch, count, dtype=torch.long, device=generator.device)
    for i, last in enumerate(range(among - count, among)):
        drawn = draw(generator, last + 1, batch, 1)
        taken = (chosen[:, :i] == drawn).any(1, keepdim=True)
        chosen[:, i : i + 1] = drawn.where(~taken, last)
    return chosen


def put(place: Tensor, values: Tensor, cells: int) -> Tensor:
    """(B, cells, K) of zeros with ``values`` (B, P, K) at ``place`` (B, P)."""
    batch, _, width = values.shape
    return values.new_zeros(batch, cells, width).scatter_(1, place[..., None].expand(-1, -1, width), values)


def paint(glyphs: Tensor, frames: Tensor, side: int) -> Tensor:
    """(B, N, 9) glyphs and (B, N, 3) frames to images (B, 3, 4·side, 4·side)."""
    batch = len(glyphs)
    images = frames.new_empty(batch, 3, side, CELL, side, CELL)
    flat = frames.view(batch, side, side, 3).permute(0, 3, 1, 2)[..., None].expand(-1, -1, -1, -1, CELL)
    images[:, :, :, CELL - 1] = flat
    lines = glyphs.reshape(batch, 1, side, side, 3, 3).expand(-1, 3, -1, -1, -1, -1)
    for y in range(CELL - 1):  # line by line, so that what is copied lies together: half of the time
        images[:, :, :, y] = torch.cat((lines[..., y, :], flat[..., -1:]), dim=-1)
    return images.view(batch, 3, side * CELL, side * CELL)


def _bits(numbers: Tensor, count: int) -> Tensor:
    """(...,) whole numbers to (..., count) of −1 and +1."""
    shifts = torch.arange(count, device=numbers.device)
    return ((numbers[..., None] >> shifts) & 1).float() * 2 - 1
