"""Retrieval by content: a picture form of multi-query associative recall (Arora et al., arXiv:2312.04927).

Some cells hold a glyph in a coloured frame, as many others the same glyphs in a grey one; the rest is empty.
A cell with a grey frame must name the colour that its glyph has elsewhere. Glyphs are drawn anew for each
picture, out of 512, so that nothing can be learned by heart, and places at random, so that no offset tells
where to look. Colours are independent of all else: without its partner a cell is right one time in eight.
"""

from typing import ClassVar

from torch import Generator

from attnbench.harness.data._cells import (
    COLOURS,
    GLYPHS,
    NO_COLOUR,
    NO_GLYPH,
    choose,
    distinct,
    draw,
    paint,
    put,
)
from attnbench.harness.probes.probe import NO_SOURCE, NOT_ASKED, Draw, Probe


class Retrieval(Probe):
    """``share`` of the cells of the size trained at, at most 256, hold a glyph in a coloured frame."""

    num_classes = COLOURS
    chance = floor = 100 / COLOURS
    share: ClassVar[float]

    def draw(self, generator: Generator, count: int, side: int) -> Draw:
        """See :class:`~attnbench.harness.probes.probe.Probe`."""
        pairs, n = min(round(self.share * self.side**2), GLYPHS // 2), side**2
        keys = distinct(generator, count, GLYPHS, pairs)
        values = draw(generator, COLOURS, count, pairs)
        places = choose(generator, count, n, 2 * pairs)
        store, query = places.split(pairs, dim=1)
        glyphs = put(places, keys.repeat(1, 2), n, NO_GLYPH)
        colours = put(store, values, n, NO_COLOUR)
        targets = put(query, values, n, NOT_ASKED)
        source = put(query, store, n, NO_SOURCE)
        return Draw(paint(glyphs, colours, side), targets, source)
