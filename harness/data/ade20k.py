"""ADE20K as the scene-parsing challenge hands it out: 150 classes, 20,210 training images, 2,000 test images.

Layout on disk, under the folder that is given or its ``ADEChallengeData2016``:
``images/{training,validation}/*.jpg`` and ``annotations/{training,validation}/*.png``. A label image holds 0
for none of the classes and 1 to 150 for them; here none becomes 255 and the classes 0 to 149
(mmsegmentation's ``reduce_zero_label``).

Source: Zhou et al., 2017, "Scene Parsing through ADE20K Dataset", CVPR.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from attnbench.datasets import register_dataset
from attnbench.errors import AttnbenchError
from attnbench.harness.dense.samples import Array, Classes, Sample

NUM_CLASSES, NONE = 150, 255
_FOLDERS = {"train": "training", "test": "validation"}
_COUNTS = {"train": 20_210, "test": 2_000}


@register_dataset(
    "ade20k",
    title="ADE20K",
    task="semantic",
    num_classes=150,
    channels=3,
    sizes="as photographed; resized to fit 2048 × 512",
    splits=("train", "test"),
    licence="images: non-commercial research; annotations BSD-3",
    source="Zhou et al., 2017, CVPR, data.csail.mit.edu/places/ADEchallenge",
    obtained="downloaded by the user",
)
class ADE20K:
    """ADE20K on disk.

    Args:
        root: the folder.
        partial: accept fewer images than the data set has.

    Raises:
        AttnbenchError: a folder or a label image is missing, or images are.
    """

    classes = Classes(stuff=tuple(f"class_{number}" for number in range(1, NUM_CLASSES + 1)))

    def __init__(self, root: str | Path, *, partial: bool = False) -> None:
        root = Path(root).expanduser()
        self.root = root / "ADEChallengeData2016" if (root / "ADEChallengeData2016").is_dir() else root
        self.files: dict[str, list[Path]] = {}
        for split, folder in _FOLDERS.items():
            images = self._listed(f"images/{folder}", ".jpg")
            labels = self._listed(f"annotations/{folder}", ".png")
            lacking = sorted(images.keys() ^ labels.keys())
            if lacking:
                raise AttnbenchError(
                    f"ADE20K at {self.root}: {len(lacking)} images of {folder} lack a label image, or labels "
                    f"an image, the first is {lacking[0]}; unpack ADEChallengeData2016.zip again"
                )
            if len(images) != _COUNTS[split] and not partial:
                raise AttnbenchError(
                    f"ADE20K at {self.root} has {len(images):,} of {_COUNTS[split]:,} images of {folder}; "
                    "unpack ADEChallengeData2016.zip again, or accept a part with --data-option partial=true"
                )
            self.files[split] = [images[name] for name in sorted(images)]

    def ids(self, split: str) -> Sequence[int]:
        """Places in the sorted list of files."""
        return range(len(self.files[split]))

    def size(self, split: str, index: int) -> tuple[int, int]:
        """Height and width, from the file's head."""
        with Image.open(self.files[split][index]) as image:
            return image.height, image.width

    def read(self, split: str, index: int) -> Sample:
        """Decode an image and its labels.

        Raises:
            AttnbenchError: a file is damaged, the sizes differ, or a label is above 150.
        """
        path = self.files[split][index]
        image = _opened(path, "RGB")
        drawn = self.root / "annotations" / path.parent.name / f"{path.stem}.png"
        labels = _opened(drawn, "L")
        if labels.shape != image.shape[:2]:
            raise AttnbenchError(f"{drawn} is {labels.shape}, its image {image.shape[:2]}: not ADE20K's")
        if labels.max() > NUM_CLASSES:
            raise AttnbenchError(f"{drawn} has a label {labels.max()}; ADE20K's are 0 to {NUM_CLASSES}")
        return Sample(index, image, np.where(labels == 0, NONE, labels - 1).astype(np.uint8))

    def _listed(self, folder: str, suffix: str) -> dict[str, Path]:
        path = self.root / folder
        if not path.is_dir():
            raise AttnbenchError(
                f"ADE20K at {self.root} has no folder {folder}; expected ADEChallengeData2016 of "
                "data.csail.mit.edu/places/ADEchallenge"
            )
        return {file.stem: file for file in path.iterdir() if file.suffix == suffix}


def _opened(path: Path, mode: str) -> Array:
    try:
        with Image.open(path) as image:
            if mode == "L" and image.mode not in ("L", "P"):
                raise AttnbenchError(f"{path} is an image of mode {image.mode}, expected one of labels")
            return np.asarray(image if mode == "L" else image.convert(mode))
    except (OSError, SyntaxError, ValueError) as error:
        raise AttnbenchError(f"{path} cannot be decoded: {error}; unpack the data set again") from error
