"""Offset: every cell names the colour of the cell two rows down and one column to the right.

Content does not tell where to look, so that a position term is needed: all mechanisms stand on the rung
``bias``, which gives each the relative position bias that it can have.
"""

import torch
from torch import Generator

from attnbench.datasets import register_dataset
from attnbench.harness.data._cells import COLOURS, GLYPHS, draw, paint
from attnbench.harness.probes.probe import NO_SOURCE, NOT_ASKED, Draw, Probe

DOWN, RIGHT = 2, 1


@register_dataset(
    "offset",
    title="Offset",
    task="probe",
    num_classes=8,
    channels=15,
    sizes="8 × 8 cells of 4 × 4 pixels; any other",
    splits=("train", "validation", "test"),
    licence="generated: none",
    source="attnbench",
    obtained="generated from a seed",
    layouts=("probe",),
)
class Offset(Probe):
    """The cells whose neighbour would lie outside the picture are not asked."""

    num_classes = COLOURS
    chance = floor = 100 / COLOURS
    question = "name the colour of the cell two rows down and one column to the right"
    places = True
    rung = "bias"

    def draw(self, generator: Generator, count: int, side: int) -> Draw:
        """See :class:`~attnbench.harness.probes.probe.Probe`."""
        n = side**2
        values = draw(generator, COLOURS, count, n)
        images = paint(draw(generator, GLYPHS, count, n), values, side)
        at = torch.arange(n, device=values.device)
        inside = (at // side + DOWN < side) & (at % side + RIGHT < side)
        other = torch.where(inside, at + DOWN * side + RIGHT, 0)
        targets = torch.where(inside, values[:, other], NOT_ASKED)
        source = torch.where(inside, other, NO_SOURCE).repeat(count, 1)
        return Draw(images, targets, source)
