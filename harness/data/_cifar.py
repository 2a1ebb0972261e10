"""CIFAR as torchvision keeps it."""

from pathlib import Path
from typing import Any

import torchvision
from PIL import Image

from attnbench.errors import AttnbenchError
from attnbench.harness.data._images import ImageSource

_FOLDERS = {"CIFAR10": "cifar-10-batches-py", "CIFAR100": "cifar-100-python"}


class CifarSource(ImageSource):
    """The images of one split of ``CIFAR10`` or ``CIFAR100``."""

    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)

    def __init__(self, kind: str, root: str | Path, split: str, download: bool) -> None:
        place = Path(root or ".").expanduser()
        try:
            self.set: Any = getattr(torchvision.datasets, kind)(place, split == "train", download=download)
        except (RuntimeError, OSError) as error:
            raise AttnbenchError(
                f"no {kind} in {place}: expected {_FOLDERS[kind]}/ as torchvision unpacks it, and whole; "
                f"give --data {kind.lower()}:FOLDER, or --download to fetch it ({str(error).splitlines()[0]})"
            ) from error
        super().__init__(self.set.classes)
        self.split = split

    def __len__(self) -> int:
        return len(self.set.targets)

    def name(self, index: int) -> str:
        """Split and number of an image."""
        return f"{self.split}/{index}"

    def read(self, index: int) -> tuple[Image.Image, int]:
        """An image and its class."""
        return Image.fromarray(self.set.data[index]), self.set.targets[index]
