"""What the probes draw with: a picture is a grid of cells of 4 × 4 pixels, one cell per token.

A cell is a 3 × 3 glyph of black and white (−1, +1; grey is 0) and a frame, its right column and bottom row,
in one of eight colours. A patch embedding of 4 × 4 reads one cell and nothing beside it.
"""

from functools import lru_cache

import torch
from torch import Generator, Tensor

from attnbench.harness.probes.probe import CELL

GLYPHS = NO_GLYPH = 512
"""2⁹ patterns of nine pixels: the bits of 0 to 511. The next number is an empty cell's."""

COLOURS = NO_COLOUR = 8
"""Corners of the RGB cube: the bits of 0 to 7. The next number is an empty frame's."""


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


def put(place: Tensor, numbers: Tensor, cells: int, empty: int) -> Tensor:
    """(B, cells) of ``empty`` with ``numbers`` (B, P) at ``place`` (B, P)."""
    return numbers.new_full((len(numbers), cells), empty).scatter_(1, place, numbers)


def paint(glyphs: Tensor, colours: Tensor, side: int) -> Tensor:
    """(B, N) numbers of glyphs and of frames' colours to images (B, 3, 4·side, 4·side).

    The four pixels of a cell's line are four bytes, and so one number of 32 bits: a quarter of the elements
    to move, and floats only at the end.
    """
    batch = len(glyphs)
    lines, frames = _words(glyphs.device)
    of_glyphs = lines.index_select(0, glyphs.flatten()).view(batch, side, side, CELL - 1)
    of_frames = frames.index_select(0, colours.flatten()).view(batch, side, side, 3, CELL)
    words = of_frames.permute(0, 3, 1, 4, 2).contiguous()  # (B, 3, side, line, side)
    words[:, :, :, :-1] |= of_glyphs.permute(0, 1, 3, 2)[:, None]
    return words.view(torch.int8).view(batch, 3, side * CELL, side * CELL).float()


@lru_cache
def _words(device: torch.device) -> tuple[Tensor, Tensor]:
    """Words of four bytes: (513, 3) lines of each glyph, (9, 12) lines of each frame in three channels."""
    glyphs = torch.zeros(GLYPHS + 1, CELL - 1, CELL, dtype=torch.int8)
    glyphs[:-1, :, :-1] = _bits(GLYPHS, 9).view(GLYPHS, CELL - 1, CELL - 1)
    frames = torch.zeros(COLOURS + 1, 3, CELL, CELL, dtype=torch.int8)
    frames[:-1, :, :, -1] = frames[:-1, :, -1] = _bits(COLOURS, 3)[..., None]
    return glyphs.view(torch.int32)[..., 0].to(device), frames.view(torch.int32).flatten(1).to(device)


def _bits(count: int, width: int) -> Tensor:
    """(count, width) of −1 and +1: the bits of 0, 1, ..."""
    return (torch.arange(count)[:, None] >> torch.arange(width) & 1).to(torch.int8) * 2 - 1
