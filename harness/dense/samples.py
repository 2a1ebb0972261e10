"""What dense data sets hand out: an image as it is, with its labels of pixels or its objects."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Objects:
    """The objects of an image.

    Args:
        boxes: (n, 4) float, x1 y1 x2 y2 in pixels, x2 and y2 exclusive.
        classes: (n,) numbers of classes, from 0.
        masks: (n, height, width) bool.
        crowd: (n,) bool, regions of many objects: a test ignores what is found there, training leaves
            them out (mmdetection ignores anchors there).
        areas: (n,) pixels, as annotated; a polygon's area is not quite that of its mask.
    """

    boxes: Array
    classes: Array
    masks: Array
    crowd: Array
    areas: Array


@dataclass(frozen=True)
class Sample:
    """One image and what is known of it.

    Args:
        image_id: of the data set; unique in a split.
        image: (height, width, 3) uint8, RGB.
        labels: (height, width) uint8, class of each pixel, 255 for none; ``None`` if not annotated so.
        objects: ``None`` if not annotated so.
    """

    image_id: int
    image: Array
    labels: Array | None = None
    objects: Objects | None = None


@dataclass(frozen=True)
class Classes:
    """Names of the classes of pixels (``stuff``) and of objects (``things``), by number.

    ``context`` are the classes of ``stuff`` that only what lies far away tells apart, if the data set says;
    ``context_things`` are those of ``things`` that have the same names.
    ``category_ids`` are the data set's own numbers of ``things``, for files of results.
    """

    stuff: tuple[str, ...] = ()
    things: tuple[str, ...] = ()
    context: tuple[int, ...] = ()
    category_ids: tuple[int, ...] = field(default=())

    @property
    def context_things(self) -> tuple[int, ...]:
        """Numbers of the things that need context."""
        names = {self.stuff[number] for number in self.context}
        return tuple(number for number, name in enumerate(self.things) if name in names)


class DenseDataset(Protocol):
    """What a data set for segmentation or detection offers."""

    classes: Classes

    def ids(self, split: str) -> Sequence[int]:
        """Identifiers of the images of ``train`` or ``test``, in a fixed order."""

    def size(self, split: str, index: int) -> tuple[int, int]:
        """Height and width of an image, without decoding it."""

    def read(self, split: str, index: int) -> Sample:
        """The image at a place of :meth:`ids`."""
