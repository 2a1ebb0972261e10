"""Beacon: one cell has a coloured frame, and every cell must name the colour. Reach and nothing else."""

from torch import Generator

from attnbench.datasets import register_dataset
from attnbench.harness.data._cells import COLOURS, GLYPHS, NO_COLOUR, NO_GLYPH, choose, draw, paint, put
from attnbench.harness.probes.probe import Draw, Probe


@register_dataset(
    "beacon",
    title="Beacon",
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
class Beacon(Probe):
    """The other cells are empty. A cell whose reach does not hold the beacon is right one time in eight.

    The beacon has a glyph too, which tells nothing: without it there would be 64 × 8 pictures in all, 32 of
    them for the test, on which guessing one colour may be right in 8 % as well as in 17.
    """

    num_classes = COLOURS
    chance = floor = 100 / COLOURS
    of_picture = True
    question = "one cell of the picture has a colour: every cell must name it"

    def draw(self, generator: Generator, count: int, side: int) -> Draw:
        """See :class:`~attnbench.harness.probes.probe.Probe`."""
        n = side**2
        place, value = choose(generator, count, n, 1), draw(generator, COLOURS, count, 1)
        colours = put(place, value, n, NO_COLOUR)
        glyphs = put(place, draw(generator, GLYPHS, count, 1), n, NO_GLYPH)
        return Draw(paint(glyphs, colours, side), value.repeat(1, n), place.repeat(1, n))
