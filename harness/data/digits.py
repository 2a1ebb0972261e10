"""Real images that need no download: scikit-learn's handwritten digits, enlarged.

Source: E. Alpaydin and C. Kaynak, 1998, "Optical Recognition of Handwritten Digits", UCI repository;
its test part, 1,797 images of 8 × 8 pixels in ten classes, as shipped with scikit-learn.
"""

import functools
from typing import NamedTuple

import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.nn import functional as F

from attnbench.datasets import register_dataset
from attnbench.harness.data._images import ImageSource

TEST_SHARE = 1 / 3
SPLIT_SEED = 0


class Split(NamedTuple):
    """Images (n, 1, size, size), about standard normal, and labels (n,)."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


@register_dataset(
    "digits",
    title="scikit-learn digits",
    task="classification",
    num_classes=10,
    channels=1,
    sizes="8 × 8, enlarged to any",
    splits=("train", "test"),
    licence="CC BY 4.0",
    source="Alpaydin and Kaynak, 1998, UCI repository, doi:10.24432/C50P49",
    obtained="ships with scikit-learn",
    layouts=("swin_pico",),
)
@functools.cache
def load(size: int) -> Split:
    """The digits enlarged to size × size; the test third is stratified and the same for all seeds."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    images = F.interpolate(images, (size, size), mode="bicubic", align_corners=False)
    labels = torch.tensor(data.target, dtype=torch.long)
    train, test = train_test_split(
        range(len(labels)), test_size=TEST_SHARE, random_state=SPLIT_SEED, stratify=data.target
    )
    mean, std = images[train].mean(), images[train].std()
    images = (images - mean) / std
    return Split(images[train], labels[train], images[test], labels[test])


def images(root: str, split: str, download: bool = False) -> ImageSource:
    """The digits of a split as pictures, the same split; no place is needed."""
    return DigitsSource(split)


class DigitsSource(ImageSource):
    """The digits of one split, 8 × 8 pixels of 17 grey levels."""

    channels = 1

    def __init__(self, split: str) -> None:
        super().__init__([str(number) for number in range(10)])
        data = load_digits()
        parts = train_test_split(
            range(len(data.target)), test_size=TEST_SHARE, random_state=SPLIT_SEED, stratify=data.target
        )
        self.split, self.chosen = split, parts[0 if split == "train" else 1]
        self.pixels, self.labels = (data.images * 15.9375).astype("uint8"), data.target
        of_train = self.pixels[parts[0]] / 255
        self.mean, self.std = (float(of_train.mean()),), (float(of_train.std()),)

    def __len__(self) -> int:
        return len(self.chosen)

    def name(self, index: int) -> str:
        """Split and number of an image."""
        return f"{self.split}/{self.chosen[index]}"

    def read(self, index: int) -> tuple[Image.Image, int]:
        """An image and its class."""
        place = self.chosen[index]
        return Image.fromarray(self.pixels[place]), int(self.labels[place])
