"""What a probe is: a task whose pictures are made from a seed, and whose answers have a known source.

A probe is a data set (:func:`attnbench.datasets.register_dataset` with ``task="probe"``) whose class derives
from :class:`Probe` and draws pictures. Training, validation and test pictures cannot overlap, whatever the
seeds: a picture's own content says which of the three it belongs to (:func:`split_of`).
"""

from abc import ABC, abstractmethod
from functools import lru_cache
from typing import ClassVar, NamedTuple

import torch
from torch import Generator, Tensor

CELL = 4
"""Pixels a side of a cell. A cell is a token of the layout ``probe``."""

NOT_ASKED = -100
"""Target of a cell that is not asked; what cross-entropy ignores."""

NO_SOURCE = -1
"""Source of a cell whose answer no single other cell holds."""

SPLITS = ("train", "validation", "test")
_OF_SIXTEEN = (14, 1, 1)  # pictures of each split, of sixteen


class Draw(NamedTuple):
    """Pictures and what is asked of them.

    ``images``: (B, C, 4·side, 4·side). ``targets``: (B, N) classes, :data:`NOT_ASKED` elsewhere. ``source``:
    (B, N) number of the cell that holds the answer, :data:`NO_SOURCE` where there is no one such cell.
    """

    images: Tensor
    targets: Tensor
    source: Tensor

    def whole(self) -> "Draw":
        """One question a picture: that of its first cell, whose answer is the picture's."""
        return Draw(self.images, self.targets[:, :1], torch.full_like(self.source[:, :1], NO_SOURCE))

    def take(self, chosen: Tensor | slice) -> "Draw":
        """Some of the pictures."""
        return Draw(self.images[chosen], self.targets[chosen], self.source[chosen])


class Probe(ABC):
    """A task on pictures of cells; one instance for each size that is trained at.

    Class attributes say how it is read: ``chance``, percent right by guessing; ``floor``, percent that a
    model reaches whose tokens know nothing of each other (chance unless places tell something);
    ``question``, one sentence that a table prints; ``places``, whether the images get channels that tell a
    cell's place; ``by_class``, whether accuracy is the mean over classes, so that guessing the frequent one
    gains nothing; ``of_picture``, whether all cells have the same answer, so that a pyramid, which answers
    for the picture, can be asked too; ``rung``, the rung of position terms that all mechanisms are put on;
    ``steps`` and ``batch_size``, the training that is enough for those who can.

    Args:
        side: cells a side that are trained at; a load such as the number of pairs follows from it, and stays
            when pictures of another size are drawn to test at.
    """

    num_classes: ClassVar[int]
    chance: ClassVar[float]
    floor: ClassVar[float]
    question: ClassVar[str]
    places: ClassVar[bool] = False
    by_class: ClassVar[bool] = False
    of_picture: ClassVar[bool] = False
    rung: ClassVar[str] = "authors"
    steps: ClassVar[int] = 500
    batch_size: ClassVar[int] = 16

    def __init__(self, side: int) -> None:
        self.side = side

    @abstractmethod
    def draw(self, generator: Generator, count: int, side: int) -> Draw:
        """``count`` pictures of side × side cells, on the generator's device, without channels for places."""

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return 3 + 12 * self.places

    def sample(self, generator: Generator, count: int, split: str, side: int = 0) -> Draw:
        """``count`` pictures of one split, with channels for places if the task needs them.

        Args:
            generator: of the seed and on the device of the run.
            count: how many.
            split: ``train``, ``validation`` or ``test``.
            side: cells a side; 0 for the one trained at.
        """
        side = side or self.side
        share = _OF_SIXTEEN[SPLITS.index(split)] / 16
        kept: list[Draw] = []
        missing = count
        while missing > 0:
            enough = missing / share + 4 * (missing * (1 - share)) ** 0.5 / share  # but once in 30,000 times
            some = self.draw(generator, int(enough) + 8, side)
            of_split = (split_of(some.images) == SPLITS.index(split)).nonzero()[:missing, 0]
            kept.append(some.take(of_split))
            missing -= len(of_split)
        together = kept[0] if len(kept) == 1 else Draw(*map(torch.cat, zip(*kept, strict=True)))
        if self.places:
            together = together._replace(images=with_places(together.images))
        return together


def split_of(images: Tensor) -> Tensor:
    """(B,) number of the split that each picture belongs to: a hash of its pixels, the same everywhere.

    Of a cell the glyph counts, and one pixel of its frame.
    """
    batch, side = len(images), images.shape[-1] // CELL
    first = images[:, 0].reshape(batch, -1)
    frames = images[:, :, CELL - 1 :: CELL, CELL - 1 :: CELL].reshape(batch, -1)
    of_first, of_frames = _digits(side, frames.shape[1], images.device)
    digits = (first * 2).round_() @ of_first + (frames * 2).round_() @ of_frames
    mixed = (digits.long() << torch.arange(0, 64, 4, device=images.device)).sum(1)  # wraps at 2^64
    mixed = (mixed ^ (mixed >> 31)) * -0x61C8864680B583EB
    slot = (mixed >> 40) & 15
    return (slot >= _OF_SIXTEEN[0]).long() + (slot >= _OF_SIXTEEN[0] + _OF_SIXTEEN[1]).long()


@lru_cache
def _digits(side: int, frames: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(pixels, 16) hexadecimal digits of each pixel's 64-bit factor: of the first channel, and of the frames.

    0 in the first channel where no glyph is. A sum of digits times pixels is a matrix product, which float32
    does exactly, TF32 and bfloat16 too, up to 300 cells a side, and faster than products of 64 bits.
    """
    index = torch.arange(side**2 * (CELL - 1) ** 2 + frames)
    index = (index + 1) * -0x61C8864680B583EB  # 2^64 over the golden ratio: an odd number with mixed bits
    index = (index ^ (index >> 29)) * -0x40A7B892E31B1A47
    parts = ((index[:, None] >> torch.arange(0, 64, 4)) & 15).float()
    glyphs, of_frames = parts.split([len(parts) - frames, frames])
    of_first = torch.zeros(side, CELL, side, CELL, 16)
    of_first[:, :-1, :, :-1] = glyphs.view(side, CELL - 1, side, CELL - 1, 16)
    return of_first.view(-1, 16).to(device), of_frames.to(device)


def with_places(images: Tensor) -> Tensor:
    """Images with 12 more channels: sine and cosine of a cell's row and column, 32, 16 and 4 cells long.

    The same for all mechanisms: it stands in for a position embedding where a task needs places.
    """
    batch, channels, height, width = images.shape
    planes = _planes(width // CELL, images.dtype, images.device)
    together = images.new_empty(batch, channels + len(planes), height, width)
    together[:, :channels], together[:, channels:] = images, planes
    return together


@lru_cache
def _planes(side: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(12, pixels, pixels): the channels that tell a cell's place."""
    at = torch.arange(side, device=device, dtype=dtype)
    waves = torch.stack([f(2 * torch.pi * at / n) for n in (32, 16, 4) for f in (torch.sin, torch.cos)])
    waves = waves.repeat_interleave(CELL, 1)  # (6, pixels)
    rows = waves[:, :, None].expand(-1, -1, waves.shape[1])
    return torch.cat((rows, rows.transpose(1, 2)))
