"""Majority: one colour of frame is more frequent than the seven others, and every cell must name it."""

import torch
from torch import Generator

from attnbench.datasets import register_dataset
from attnbench.harness.data._cells import COLOURS, GLYPHS, draw, paint
from attnbench.harness.probes.probe import NO_SOURCE, Draw, Probe

LEAD = 0.25
"""Share of the cells that are given the favoured colour; the others have one of eight at random."""


@register_dataset(
    "majority",
    title="Majority",
    task="probe",
    num_classes=8,
    channels=3,
    sizes="8 × 8 cells of 4 × 4 pixels; any other",
    splits=("train", "validation", "test"),
    licence="generated: none",
    source="attnbench",
    obtained="generated from a seed",
    layouts=("probe",),
)
class Majority(Probe):
    """A statistic of the whole picture, for which an average is enough.

    A cell's own colour is the favoured one with probability 0.25 + 0.75 / 8, which is the floor; a part of
    the picture tells more of it, so that accuracy grows smoothly with how much a cell sees.
    """

    num_classes = COLOURS
    chance = 100 / COLOURS
    floor = 100 * (LEAD + (1 - LEAD) / COLOURS)
    of_picture = True
    question = "name the colour that is most frequent in the picture (a third of the cells; the others 1/11)"

    def draw(self, generator: Generator, count: int, side: int) -> Draw:
        """See :class:`~attnbench.harness.probes.probe.Probe`."""
        n = side**2
        best, values = draw(generator, COLOURS, count, 1), draw(generator, COLOURS, count, n)
        forced = torch.rand(count, n, generator=generator, device=generator.device) < LEAD
        values = torch.where(forced, best, values)
        images = paint(draw(generator, GLYPHS, count, n), values, side)
        return Draw(images, best.repeat(1, n), torch.full_like(values, NO_SOURCE))
