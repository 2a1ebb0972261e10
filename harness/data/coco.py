"""COCO 2017: objects of 80 classes with boxes and masks, 118,287 images to train on and 5,000 to test.

Layout on disk, under the folder that is given: ``train2017/``, ``val2017/`` and
``annotations/instances_{train,val}2017.json``. COCO numbers its classes from 1 to 90 with gaps; here they
are counted from 0 in that order, and results are written with COCO's own numbers.

Source: Lin et al., 2014, "Microsoft COCO: Common Objects in Context", arXiv:1405.0312.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from attnbench.datasets import register_dataset
from attnbench.errors import AttnbenchError
from attnbench.harness.dense.coding import decode
from attnbench.harness.dense.samples import Array, Classes, Objects, Sample

NUM_CLASSES = 80
_FOLDERS = {"train": "train2017", "test": "val2017"}
_COUNTS = {"train": 118_287, "test": 5_000}
_KEYS = ("images", "annotations", "categories")


@register_dataset(
    "coco",
    title="COCO 2017",
    task="detection",
    num_classes=80,
    channels=3,
    sizes="as photographed; resized to fit 1333 × 800",
    splits=("train", "test"),
    licence="annotations CC BY 4.0; images: Flickr's terms",
    source="Lin et al., 2014, arXiv:1405.0312, cocodataset.org",
    obtained="downloaded by the user",
)
class COCO:
    """COCO 2017 on disk.

    Training images without an object that can be learnt, or with a side below 32 pixels, are left out, as in
    mmdetection; of the test split none is.

    Args:
        root: the folder.
        partial: accept fewer images, or fewer classes, than the data set has.

    Raises:
        AttnbenchError: a file is missing, damaged or not COCO's, or images are missing.
    """

    def __init__(self, root: str | Path, *, partial: bool = False) -> None:
        self.root, self.partial = Path(root).expanduser(), partial
        self.images: dict[str, list[dict[str, Any]]] = {}
        self.of_image: dict[str, dict[int, list[dict[str, Any]]]] = {}
        numbers: list[int] = []
        for split in _FOLDERS:
            content = self._annotations(split)
            numbers = sorted(category["id"] for category in content["categories"])
            names = {category["id"]: str(category["name"]) for category in content["categories"]}
            of_image: dict[int, list[dict[str, Any]]] = {}
            for one in content["annotations"]:
                of_image.setdefault(one["image_id"], []).append(one)
            self.of_image[split] = of_image
            images = sorted(content["images"], key=lambda image: image["id"])
            self._check(split, images)
            self.images[split] = [i for i in images if split == "test" or _learnable(i, of_image)]
        if len(numbers) != NUM_CLASSES and not partial:
            raise AttnbenchError(f"COCO at {self.root} has {len(numbers)} classes, expected {NUM_CLASSES}")
        self.classes = Classes(things=tuple(names[n] for n in numbers), category_ids=tuple(numbers))

    def ids(self, split: str) -> Sequence[int]:
        """COCO's own."""
        return [image["id"] for image in self.images[split]]

    def size(self, split: str, index: int) -> tuple[int, int]:
        """Height and width, as annotated."""
        image = self.images[split][index]
        return int(image["height"]), int(image["width"])

    def read(self, split: str, index: int) -> Sample:
        """Decode an image and draw its objects.

        Raises:
            AttnbenchError: the image is damaged or of another size, or an object cannot be drawn.
        """
        facts = self.images[split][index]
        height, width = self.size(split, index)
        path = self.root / _FOLDERS[split] / facts["file_name"]
        try:
            with Image.open(path) as image:
                pixels: Array = np.asarray(image.convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:
            raise AttnbenchError(f"{path} cannot be decoded: {error}; unpack the data set again") from error
        if pixels.shape[:2] != (height, width):
            raise AttnbenchError(f"{path} is {pixels.shape[:2]}, annotated as {(height, width)}")
        found = self.of_image[split].get(facts["id"], [])
        return Sample(facts["id"], pixels, objects=self._objects(found, height, width))

    def _objects(self, found: list[dict[str, Any]], height: int, width: int) -> Objects:
        place = {number: index for index, number in enumerate(self.classes.category_ids)}
        boxes, masks = np.zeros((len(found), 4), np.float32), np.zeros((len(found), height, width), bool)
        for index, one in enumerate(found):
            x, y, w, h = one["bbox"]
            boxes[index] = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
            try:
                masks[index] = decode(one["segmentation"], height, width)
            except (ValueError, TypeError, KeyError) as error:
                raise AttnbenchError(f"COCO annotation {one.get('id')} has no mask: {error}") from error
        return Objects(
            boxes=boxes,
            classes=np.asarray([place[one["category_id"]] for one in found], np.int64),
            masks=masks,
            crowd=np.asarray([bool(one.get("iscrowd")) for one in found], bool),
            areas=np.asarray([one["area"] for one in found], np.float32),
        )

    def _annotations(self, split: str) -> dict[str, Any]:
        path = self.root / "annotations" / f"instances_{_FOLDERS[split]}.json"
        if not path.is_file():
            raise AttnbenchError(f"COCO at {self.root} has no {path.relative_to(self.root)}")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise AttnbenchError(f"{path} cannot be read as JSON: {error}; download it again") from error
        lacking = [key for key in _KEYS if not isinstance(content, dict) or key not in content]
        if lacking:
            raise AttnbenchError(f"{path} has no {', '.join(lacking)}; it is not COCO's of instances")
        return content

    def _check(self, split: str, images: list[dict[str, Any]]) -> None:
        """Raise AttnbenchError unless all images are annotated and on disk."""
        folder = self.root / _FOLDERS[split]
        there = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
        lacking = [image["file_name"] for image in images if image["file_name"] not in there]
        if lacking:
            raise AttnbenchError(
                f"COCO at {self.root}: {len(lacking):,} of {len(images):,} images are not in "
                f"{_FOLDERS[split]}, the first is {lacking[0]}; unpack {_FOLDERS[split]}.zip again"
            )
        if len(images) != _COUNTS[split] and not self.partial:
            raise AttnbenchError(
                f"COCO at {self.root} has {len(images):,} of {_COUNTS[split]:,} images of {_FOLDERS[split]}; "
                "download the annotations again, or accept a part with --data-option partial=true"
            )


def _learnable(image: dict[str, Any], of_image: dict[int, list[dict[str, Any]]]) -> bool:
    """Whether mmdetection trains on an image: 32 pixels a side, and an object of it that is no crowd."""
    if min(image["height"], image["width"]) < 32:
        return False
    found = of_image.get(image["id"], [])
    return any(not one.get("iscrowd") and one["area"] > 0 and min(one["bbox"][2:]) >= 1 for one in found)
