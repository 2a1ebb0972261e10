"""Images in tar shards, as webdataset writes them: ``<key>.jpg`` and ``<key>.cls`` side by side.

The shards are indexed once, by reading the headers of their members, and then read at random by offset; so an
epoch is a true permutation and can be taken up anywhere, which a stream through a buffer is not.
"""

import json
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS

from attnbench.datasets import register_dataset
from attnbench.errors import AttnbenchError
from attnbench.harness.data._images import ImageSource, files_of_split, need_root

EXPECTED = (
    "train/*.tar and val/*.tar (or *train*.tar and *val*.tar), in them <key>.jpg with <key>.cls, the number "
    "of the class, or <key>.json with a 'label'; names of classes in classes.txt, if any"
)


class _Member(NamedTuple):
    key: str
    offset: int
    size: int
    label: int


class ShardSource(ImageSource):
    """Images in tar files, read by offset."""

    def __init__(self, shards: list[Path], classes: list[str], members: list[list[_Member]]) -> None:
        super().__init__(classes)
        self.shards = [str(path) for path in shards]
        self.keys = [
            f"{path.stem}/{member.key}" for path, of in zip(shards, members, strict=True) for member in of
        ]
        rows = [(s, m.offset, m.size, m.label) for s, of in enumerate(members) for m in of]
        self.table = np.array(rows, dtype=np.int64).reshape(-1, 4)

    def __len__(self) -> int:
        return len(self.keys)

    def name(self, index: int) -> str:
        """Shard and key of an image."""
        return self.keys[index]

    def read(self, index: int) -> tuple[bytes, int]:
        """Bytes of an image's member, and its class."""
        shard, offset, size, label = self.table[index].tolist()
        with open(self.shards[shard], "rb") as file:
            file.seek(offset)
            content = file.read(size)
        if len(content) != size:
            raise OSError(f"the shard {self.shards[shard]} ends inside it")
        return content, label


@register_dataset(
    "image_shards",
    title="Images in tar shards",
    task="classification",
    num_classes=0,
    sizes="any",
    splits=("train", "test"),
    licence="that of the images",
    source="the user",
    obtained="a path: tar shards as webdataset writes them",
)
def images(root: str | Path, split: str, download: bool = False) -> ImageSource:
    """The images of a split; nothing is downloaded.

    Raises:
        AttnbenchError: there are no shards, one is no tar file, or images have no class.
    """
    top = need_root(root, EXPECTED)
    shards = files_of_split(top, split, ".tar")
    if not shards:
        raise AttnbenchError(f"{top} has no tar shards for the split {split!r}; expected: {EXPECTED}")
    members = [_index(path) for path in shards]
    labels = [member.label for of in members for member in of]
    listed = top / "classes.txt"
    if listed.is_file():
        classes = listed.read_text(encoding="utf-8").split()
    else:
        classes = [str(number) for number in range(_classes_of_all(top, split, labels))]
    if max(labels) >= len(classes):
        raise AttnbenchError(
            f"{top} has a class number {max(labels)}, and {listed} names {len(classes)} classes"
        )
    return ShardSource(shards, classes, members)


def _classes_of_all(top: Path, split: str, labels: list[int]) -> int:
    """How many classes both splits have: numbers alone do not tell in one of them."""
    other = files_of_split(top, "test" if split == "train" else "train", ".tar")
    return max(labels + [member.label for path in other for member in _index(path)]) + 1


def _index(path: Path) -> list[_Member]:
    """The images of a shard with their classes, in the order of the file."""
    found: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                key, dot, suffix = member.name.rpartition(".")
                suffix = (dot + suffix).lower()
                if suffix in IMG_EXTENSIONS:
                    found[key] = (member.offset_data, member.size)
                elif suffix in (".cls", ".json") and member.isfile():
                    file = tar.extractfile(member)
                    labels[key] = _label(file.read() if file else b"", suffix)
    except (tarfile.TarError, OSError) as error:
        raise AttnbenchError(f"{path} is no whole tar file: {error}; write the shard anew") from error
    except (ValueError, KeyError, TypeError) as error:
        raise AttnbenchError(f"{path}: a label is no class number ({error}); expected: {EXPECTED}") from error
    without = next((key for key in found if key not in labels), None)
    if without is not None or not found:
        raise AttnbenchError(
            f"{path}: {f'{without} has no class' if without else 'no images'}; expected: {EXPECTED}"
        )
    return [_Member(key, *place, labels[key]) for key, place in found.items()]


def _label(content: bytes, suffix: str) -> int:
    value = int(json.loads(content)["label"] if suffix == ".json" else content)
    if value < 0:
        raise ValueError(value)
    return value
