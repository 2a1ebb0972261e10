"""CIFAR-100: 60,000 photographs of 32 × 32 pixels in 100 classes."""

from pathlib import Path

from attnbench.datasets import register_dataset
from attnbench.harness.data._cifar import CifarSource
from attnbench.harness.data._images import ImageSource


@register_dataset(
    "cifar100",
    title="CIFAR-100",
    task="classification",
    num_classes=100,
    sizes="32 × 32",
    splits=("train", "test"),
    licence="not stated by its authors",
    source="Krizhevsky, 2009, Learning Multiple Layers of Features from Tiny Images",
    obtained="a path with what torchvision keeps there; --download fetches it",
)
def images(root: str | Path, split: str, download: bool = False) -> ImageSource:
    """The images of a split, from where torchvision keeps them; fetched if ``download``.

    Raises:
        AttnbenchError: the files are not there, or are damaged.
    """
    return CifarSource("CIFAR100", root, split, download)
