"""Flood: which free cells are connected with the seed? Connectivity, an answer for every free cell.

The ability that Pathfinder tests (Linsley et al., 2018, arXiv:1805.08315) with one bit a picture, which
learns too slowly for minutes. Abbe et al., 2024 (arXiv:2406.06467), say why reach does not help here: no few
cells tell the answer, so that attention to all of them has nothing to begin with.
"""

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from attnbench.datasets import register_dataset
from attnbench.errors import AttnbenchError
from attnbench.harness.data._cells import COLOURS, GLYPHS, NO_COLOUR, paint
from attnbench.harness.probes.probe import NO_SOURCE, NOT_ASKED, Draw, Probe

FREE = 0.60
"""Share of free cells: near 0.593, where on a large square lattice clusters begin to span it."""

TRIES = 3
"""Of so many pictures the one is kept whose connected share of the free cells is nearest to one half."""

WIDEST = 62
"""Cells a side: a row of them is a number of 64 bits, in which a fill shifts to both sides."""


@register_dataset(
    "flood",
    title="Flood",
    task="probe",
    num_classes=2,
    channels=15,
    sizes="8 × 8 cells of 4 × 4 pixels; any other",
    splits=("train", "validation", "test"),
    licence="generated: none",
    source="attnbench; after Pathfinder (arXiv:1805.08315)",
    obtained="generated from a seed",
    layouts=("probe_deep",),
)
class Flood(Probe):
    """Walls are black and not asked; one free cell has a white frame, the seed.

    Cells near a border are less often connected, and places tell of it: the floor is above chance.
    """

    num_classes = 2
    chance = 50.0
    floor = 57.8  # the best answer by place alone; tests/harness/test_probe_pictures.py estimates it
    question = "are you connected with the marked cell through free cells? (mean of both classes' recalls)"
    places = True
    steps, batch_size = 300, 16
    by_class = True

    def draw(self, generator: Generator, count: int, side: int) -> Draw:
        """See :class:`~attnbench.harness.probes.probe.Probe`.

        Raises:
            AttnbenchError: more cells a side than a row of bits has.
        """
        if side > WIDEST:
            raise AttnbenchError(f"flood is drawn on at most {WIDEST} × {WIDEST} cells, got {side} × {side}")
        n, many = side**2, count * TRIES
        rank = torch.rand(many, n, generator=generator, device=generator.device)
        free = rank < FREE
        seed = (rank * free).argmax(1)  # of the free cells a random one
        filled = _fill(free.view(many, side, side), seed).flatten(1)
        from_half = (filled.sum(1) / free.sum(1) - 0.5).abs()
        kept = from_half.view(count, TRIES).argmin(1) + TRIES * torch.arange(count, device=rank.device)
        free, seed, filled = free[kept], F.one_hot(seed[kept], n).bool(), filled[kept]
        white, frames = torch.where(free, GLYPHS - 1, 0), torch.where(seed, COLOURS - 1, NO_COLOUR)
        targets = torch.where(free & ~seed, filled.long(), NOT_ASKED)
        images = paint(white, frames, side)
        return Draw(images, targets, torch.full_like(targets, NO_SOURCE))


def _fill(free: Tensor, seed: Tensor) -> Tensor:
    """Cells of (B, h, w) connected with the seeds, (B,) cells, by steps to four neighbours inside ``free``.

    A row of cells is a number, one bit a cell, since a fill takes dozens of rounds.
    """
    width = free.shape[2]
    bits = 1 << torch.arange(width, device=free.device)
    open_rows = (free * bits).sum(2)  # (B, h)
    rows = torch.zeros_like(open_rows).scatter_(1, (seed // width)[:, None], bits[seed % width][:, None])
    while True:
        before = rows
        for _ in range(4):
            grown = rows | rows << 1
            grown |= rows >> 1
            grown[:, 1:] |= rows[:, :-1]
            grown[:, :-1] |= rows[:, 1:]
            rows = grown.bitwise_and_(open_rows)
        if torch.equal(rows, before):
            return (rows[..., None] & bits) != 0
