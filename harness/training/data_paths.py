"""Images by what ``--data`` said: a registered data set, or the path of images."""

import sys
from pathlib import Path

from attnbench import datasets
from attnbench.errors import AttnbenchError
from attnbench.harness.data._images import ImageSource, need_root


def open_images(name: str, root: str, split: str, download: bool = False) -> ImageSource:
    """The images of a split.

    Args:
        name: of a data set; empty for the images at ``root``, whichever form they have.
        root: where they lie; empty where the data set needs no place.
        split: ``train`` or ``test``.
        download: fetch what is not there, where the data set knows how.

    Raises:
        AttnbenchError: they are not there, have another layout, or the data set holds no pictures.
    """
    if not name:
        from attnbench.harness.data import image_folder, imagenet

        return imagenet.open_any(need_root(root, image_folder.EXPECTED), split)
    loader = datasets.get(name).load()
    images = getattr(sys.modules[loader.__module__], "images", None)
    if images is None:
        raise AttnbenchError(
            f"data set {name} cannot be trained on: its file has no function images(root, split, download), "
            "see attnbench/harness/data/_images.py"
        )
    return images(root, split, download)


def called(name: str, root: str) -> str:
    """What data are called in records and messages."""
    return name or Path(root).expanduser().resolve().name
