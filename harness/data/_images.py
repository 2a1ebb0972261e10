"""What data sets of pictures share: a source of images by number, and how its files are laid out.

A file of this folder that can be trained on has, besides what it registers, a function
``images(root, split, download) -> ImageSource``; ``split`` is ``train`` or ``test``.
"""

import hashlib
import io
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from attnbench.errors import AttnbenchError

FOLDERS = {"train": ("train", "training"), "test": ("val", "validation", "test")}
"""What the parts of a data set are called on disk."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class BadImageError(Exception):
    """An image that cannot be decoded; the message names it."""


class ImageSource:
    """The images of one split, by number.

    Args:
        classes: names of the classes, in the order of their numbers.
        blocks: stretches that are cheap to read together, where single images are not.
    """

    channels = 3
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __init__(self, classes: Sequence[str], blocks: Sequence[range] = ()) -> None:
        self.classes, self.blocks = tuple(classes), tuple(blocks)

    def __len__(self) -> int:
        raise NotImplementedError

    def name(self, index: int) -> str:
        """What an image is called, for messages and for labels of tokens: its path below the split."""
        raise NotImplementedError

    def read(self, index: int) -> tuple[bytes | Image.Image, int]:
        """An image, encoded or decoded, and its class."""
        raise NotImplementedError

    def get(self, index: int) -> tuple[Image.Image, int]:
        """An image in RGB (or grey where ``channels`` is 1), and its class.

        Raises:
            BadImageError: it cannot be decoded.
        """
        try:
            content, label = self.read(index)
            image = decode(content) if isinstance(content, bytes) else content
            return image.convert("L" if self.channels == 1 else "RGB"), label
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise BadImageError(f"{self.name(index)}: {error}") from error

    def fingerprint(self) -> str:
        """Sixteen hex digits of the names of classes and images: other data are another run."""
        text = hashlib.sha256("\n".join(self.classes).encode())
        for index in range(len(self)):
            text.update(f"\n{self.name(index)}".encode())
        return text.hexdigest()[:16]


def decode(content: bytes) -> Image.Image:
    """The image of a file's bytes, read to its end. OSError where it is cut or none."""
    if not content:
        raise OSError("the file is empty")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd metadata, which does not bear on the pixels
        image = Image.open(io.BytesIO(content))
        image.load()
    return image


def need_root(root: str | Path, expected: str) -> Path:
    """The folder of a data set.

    Raises:
        AttnbenchError: there is none; the message shows what is expected.
    """
    path = Path(root).expanduser() if root else None
    if path is None or not path.is_dir():
        raise AttnbenchError(
            f"there is no folder {path or '(none was given)'} of images; expected: {expected}"
        )
    return path


def find_split(root: Path, split: str) -> Path | None:
    """The folder of a split below ``root``, by one of the names it has in the wild."""
    return next((root / name for name in FOLDERS[split] if (root / name).is_dir()), None)


def files_of_split(root: Path, split: str, suffix: str) -> list[Path]:
    """Shards of a split: in its folder, or in ``root`` with the split in their names."""
    folder = find_split(root, split)
    if folder is not None:
        return sorted(folder.glob(f"*{suffix}"))
    found = sorted(root.glob(f"*{suffix}"))
    return [path for path in found if any(name in path.name.lower() for name in FOLDERS[split])]


def same_classes(train: Iterable[str], test: Iterable[str], root: Path) -> None:
    """Raise AttnbenchError unless both splits have the same classes."""
    one, other = set(train), set(test)
    if one != other:
        told = [
            f"only in {name}: {', '.join(sorted(rest)[:5])}{' …' if len(rest) > 5 else ''}"
            for name, rest in (("train", one - other), ("test", other - one))
            if rest
        ]
        raise AttnbenchError(f"the splits of {root} have different classes ({'; '.join(told)})")
