"""Generated scenes for dense prediction: shapes with masks, boxes and classes; no download.

A dense probe as well. Of the nine classes of pixels, five show what they are; the four others look alike in
pairs, and only what is far away tells the two of a pair apart:

- ``line_a`` and ``line_b``: thin white lines from end to end of the image. The colour of a cap at one end
  tells which; the body is the same. Two lines lie in one image, so the cap of each must be followed.
- ``blob_a`` and ``blob_b``: white blobs near one end of the image. The colour of a post at the other end
  tells which.

A model sees as far as its attention and its head's convolutions reach; behind ``identity`` it is the head's
reach alone, which is why the default image is wide. Disc, square, blobs and posts are the things, with boxes.
A scene is a function of (seed, split, index).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from attnbench.datasets import register_dataset
from attnbench.errors import AttnbenchError
from attnbench.harness.dense.samples import Array, Classes, Objects, Sample

STUFF = ("ground", "disc", "square", "blob_a", "blob_b", "post_a", "post_b", "line_a", "line_b")
DISC, SQUARE, BLOB, POST, LINE = 1, 2, 3, 5, 7
WHITE = (235, 235, 235)
DISC_COLOUR, SQUARE_COLOUR = (230, 190, 40), (60, 170, 80)
POST_COLOUR = ((210, 50, 50), (60, 80, 220))  # with blob_a, blob_b
CAP_COLOUR = ((200, 60, 200), (40, 200, 200))  # of line_a, line_b
_SPLITS = {"train": 0, "test": 1}


@register_dataset(
    "scenes",
    title="Generated scenes",
    task="semantic",
    num_classes=9,
    channels=3,
    sizes="24 × 96, or any from 24 × 48 on",
    splits=("train", "test"),
    licence="none needed",
    source="attnbench",
    obtained="generated from a seed",
)
class Scenes:
    """The scenes of one seed.

    Args:
        seed: of all scenes; another seed is another data set.
        height, width: of an image in pixels; at least 24 × 48.
        train, test: how many images.

    Raises:
        AttnbenchError: a size or number is too small.
    """

    classes = Classes(stuff=STUFF, things=STUFF[1:7], context=(3, 4, 7, 8), category_ids=(1, 2, 3, 4, 5, 6))

    def __init__(
        self, *, seed: int = 0, height: int = 24, width: int = 96, train: int = 2048, test: int = 128
    ) -> None:
        if height < 24 or width < 48:
            raise AttnbenchError(f"scenes are at least 24 × 48 pixels, got {height} × {width}")
        if min(train, test) < 1:
            raise AttnbenchError(f"scenes need at least one image a split, got {train} and {test}")
        self.seed, self.height, self.width = seed, height, width
        self.counts = {"train": train, "test": test}

    def ids(self, split: str) -> Sequence[int]:
        """0, 1, ..."""
        return range(self.counts[split])

    def size(self, split: str, index: int) -> tuple[int, int]:
        """Of every image the same."""
        return self.height, self.width

    def read(self, split: str, index: int) -> Sample:
        """Draw the scene of (seed, split, index)."""
        random = np.random.default_rng([self.seed, _SPLITS[split], index])
        canvas = _Canvas(self.height, self.width, random)
        _draw_lines(canvas, random)
        _draw_post_and_blobs(canvas, random)
        for label, colour in ((DISC, DISC_COLOUR), (SQUARE, SQUARE_COLOUR)):
            canvas.thing(label, colour, _shape(label, random), 0, self.width)
        return canvas.sample(index)


class _Canvas:
    """An image being painted, its labels, and the objects on it; later ones hide earlier ones."""

    def __init__(self, height: int, width: int, random: np.random.Generator) -> None:
        self.random = random
        self.image = 105 + random.normal(0, 12, (height, width, 3))
        self.labels = np.zeros((height, width), np.uint8)
        self.things: list[tuple[int, Array]] = []
        self.taken = np.zeros((height, width), bool)

    def paint(self, mask: Array, label: int, colour: tuple[int, int, int]) -> None:
        """Set pixels to a noisy colour and to a label."""
        self.image[mask] = np.asarray(colour) + self.random.normal(0, 8, (int(mask.sum()), 3))
        self.labels[mask] = label

    def thing(self, label: int, colour: tuple[int, int, int], stencil: Array, left: int, right: int) -> None:
        """Paint a shape where it touches no other thing, between two columns; none if there is no room."""
        height, width = self.labels.shape
        rows, columns = stencil.shape
        for _ in range(20):
            y = int(self.random.integers(0, height - rows + 1))
            x = int(self.random.integers(left, max(left + 1, right - columns + 1)))
            if x + columns > width or self.taken[y : y + rows, x : x + columns].any():
                continue
            mask = np.zeros((height, width), bool)
            mask[y : y + rows, x : x + columns] = stencil
            self.taken[y : y + rows, x : x + columns] = True
            self.put(mask, label, colour)
            return

    def put(self, mask: Array, label: int, colour: tuple[int, int, int]) -> None:
        """Paint an object."""
        self.paint(mask, label, colour)
        self.things.append((label, mask))

    def sample(self, image_id: int) -> Sample:
        """What was painted."""
        masks = [mask & (self.labels == label) for label, mask in self.things]
        boxes = [_box(mask) for mask in masks]
        found = np.asarray(masks, bool).reshape(-1, *self.labels.shape)
        return Sample(
            image_id,
            self.image.clip(0, 255).astype(np.uint8),
            self.labels,
            Objects(
                boxes=np.asarray(boxes, np.float32).reshape(-1, 4),
                classes=np.asarray([label - 1 for label, _ in self.things], np.int64),
                masks=found,
                crowd=np.zeros(len(boxes), bool),
                areas=found.sum((1, 2)).astype(np.float32),
            ),
        )


def _draw_lines(canvas: _Canvas, random: np.random.Generator) -> None:
    """Two lines of three pixels, one in the upper half and one in the lower, each capped at a random end."""
    height, width = canvas.labels.shape
    columns = np.arange(width)
    for half in range(2):
        low = half * height / 2 + 1
        ends = random.uniform(low, low + height / 2 - 5, 2)
        top = np.rint(np.linspace(ends[0], ends[1], width)).astype(int)
        mask = np.zeros((height, width), bool)
        for row in range(3):
            mask[top + row, columns] = True
        kind = int(random.integers(2))
        canvas.paint(mask, LINE + kind, WHITE)
        cap = columns < 18 if random.integers(2) else columns >= width - 18
        canvas.paint(mask & cap, LINE + kind, CAP_COLOUR[kind])


def _draw_post_and_blobs(canvas: _Canvas, random: np.random.Generator) -> None:
    """A post as high as the image at one end, and two or three blobs in the 40 % at the other."""
    height, width = canvas.labels.shape
    kind, left = int(random.integers(2)), bool(random.integers(2))
    mask = np.zeros((height, width), bool)
    mask[:, 1:7] = True
    if not left:
        mask = mask[:, ::-1]
    canvas.put(mask & (canvas.labels == 0), POST + kind, POST_COLOUR[kind])
    canvas.taken |= mask
    end = (int(0.6 * width), width) if left else (0, int(0.4 * width))
    for _ in range(int(random.integers(2, 4))):
        canvas.thing(BLOB + kind, WHITE, _shape(BLOB, random), *end)


def _shape(label: int, random: np.random.Generator) -> Array:
    """A stencil: a disc, a square, or a blob (a diamond)."""
    side = int(random.integers(9, 14))
    x = np.arange(side) - (side - 1) / 2
    y = x[:, None]
    if label == SQUARE:
        return np.ones((side, side), bool)
    return y**2 + x**2 <= (side / 2) ** 2 if label == DISC else np.abs(y) + np.abs(x) <= side / 2


def _box(mask: Array) -> tuple[Any, Any, Any, Any]:
    """Smallest box around a mask's pixels."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
