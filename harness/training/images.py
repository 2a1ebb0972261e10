"""Images as the loop draws them: augmented as a function of the draw; what cannot be decoded is told of."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from attnbench.errors import AttnbenchError
from attnbench.harness.data._images import BadImageError, ImageSource
from attnbench.harness.training.image_transforms import Transform
from attnbench.harness.training.order import Draw
from attnbench.harness.training.randomness import seed_sample

TRIES = 100


class Sample(NamedTuple):
    """An image (C, H, W), its class, and the images before it that could not be decoded."""

    image: Tensor
    label: int
    bad: tuple[str, ...] = ()


class Batch(NamedTuple):
    """Images (B, C, H, W), classes (B,), and what could not be decoded."""

    images: Tensor
    labels: Tensor
    bad: tuple[str, ...] = ()


class Augmented(Dataset[Sample]):
    """Training images, each augmented as a function of its :class:`Draw`.

    An image that cannot be decoded is replaced by the next in number that can, and named.
    """

    def __init__(self, source: ImageSource, transform: Transform) -> None:
        self.source, self.transform = source, transform

    def __getitem__(self, draw: Draw) -> Sample:
        bad = []
        for step in range(min(TRIES, len(self.source))):
            try:
                image, label = self.source.get((draw.sample + step) % len(self.source))
            except BadImageError as error:
                bad.append(str(error))
                continue
            seed_sample(draw.seed, "sample", draw.epoch, draw.sample, draw.repeat)
            return Sample(self.transform(image), label, tuple(bad))
        raise AttnbenchError(f"{len(bad)} images in a row cannot be decoded, the last is {bad[-1]}")


class Plain(Dataset[Sample | None]):
    """Test images; ``None`` in place of one that cannot be decoded."""

    def __init__(self, source: ImageSource, transform: Transform, indices: Sequence[int]) -> None:
        self.source, self.transform, self.indices = source, transform, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> Sample:
        try:
            image, label = self.source.get(self.indices[place])
        except BadImageError as error:
            return Sample(torch.empty(0), -1, (str(error),))
        return Sample(self.transform(image), label)


def collate(samples: Sequence[Sample]) -> Batch:
    """A batch of those that have an image."""
    whole = [sample for sample in samples if sample.label >= 0]
    images = torch.stack([sample.image for sample in whole]) if whole else torch.empty(0)
    labels = torch.tensor([sample.label for sample in whole], dtype=torch.long)
    return Batch(images, labels, tuple(name for sample in samples for name in sample.bad))


class Damage:
    """The images that could not be decoded, each told of once.

    Args:
        limit: how many there may be.
        say: takes a line for the user.
    """

    def __init__(self, limit: int, say: Any) -> None:
        self.limit, self.say = limit, say
        self.names: set[str] = set()

    def note(self, bad: Sequence[str]) -> None:
        """Tell of those that are new.

        Raises:
            AttnbenchError: there are more than the limit.
        """
        for line in bad:
            if line not in self.names:
                self.names.add(line)
                self.say(f"skipped an image that cannot be decoded: {line}")
        if len(self.names) > self.limit:
            raise AttnbenchError(
                f"{len(self.names)} images cannot be decoded, more than the limit of {self.limit}; the last "
                f"is {bad[-1]}; mend them, or give --max-bad-images"
            )
