"""Texture: every cell names the pattern of its own glyph. The control, for which nobody else is needed.

A failing harness, a budget too small or a mechanism through which nothing trains fails here too; a mechanism
that solves this and fails elsewhere fails for the reason that the other probe states.
"""

import torch
from torch import Generator, Tensor

from attnbench.datasets import register_dataset
from attnbench.harness.data._cells import COLOURS, draw, paint
from attnbench.harness.probes.probe import Draw, Probe

PATTERNS = (0b000111000, 0b010010010, 0b100010001, 0b001010100)
"""Bars across, down and along both diagonals; with their negatives eight, which differ in four pixels."""


@register_dataset(
    "texture",
    title="Texture (control)",
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
class Texture(Probe):
    """Patterns of nine pixels, one of them flipped at random half of the time; frames are noise."""

    num_classes = 8
    chance = 12.5
    floor = 100.0
    question = "name the pattern of your own glyph: local, the control that identity must solve"

    def draw(self, generator: Generator, count: int, side: int) -> Draw:
        """See :class:`~attnbench.harness.probes.probe.Probe`."""
        n = side**2
        kinds = draw(generator, 8, count, n)
        codes = _codes(kinds.device)[kinds]
        flip = draw(generator, 18, count, n)  # from nine on: none
        codes = torch.where(flip < 9, codes ^ (1 << flip.clamp(max=8)), codes)
        images = paint(codes, draw(generator, COLOURS, count, n), side)
        own = torch.arange(n, device=kinds.device).repeat(count, 1)
        return Draw(images, kinds, own)


def _codes(device: torch.device) -> Tensor:
    return torch.tensor([*PATTERNS, *(511 - code for code in PATTERNS)], device=device)
