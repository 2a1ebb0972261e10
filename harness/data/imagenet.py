"""ImageNet-1K as folders, tar shards or parquet files, seen to be whole: 1000 classes, in the usual order."""

from pathlib import Path

from attnbench.datasets import register_dataset
from attnbench.errors import AttnbenchError
from attnbench.harness.data import image_folder, image_parquet, image_shards
from attnbench.harness.data._images import ImageSource, find_split, need_root

CLASSES, FIRST, LAST = 1000, "n01440764", "n15075141"
EXPECTED = (
    "train/<wnid>/*.JPEG (1,281,167) and val/<wnid>/*.JPEG (50,000), n01440764 to n15075141; or tar shards; "
    "or parquet files"
)


@register_dataset(
    "imagenet",
    title="ImageNet-1K",
    task="classification",
    num_classes=1000,
    sizes="any, 400 × 350 on average",
    splits=("train", "test"),
    licence="ImageNet's terms of access: research, not commercial",
    source="Russakovsky et al., 2015, arXiv:1409.0575",
    obtained="a path: folders, tar shards or parquet files; image-net.org gives access",
)
def images(root: str | Path, split: str, download: bool = False) -> ImageSource:
    """The images of a split; nothing is downloaded. The 50,000 of validation are the test split.

    Raises:
        AttnbenchError: the folder has another layout, or not ImageNet's classes.
    """
    top = need_root(root, EXPECTED)
    folder = find_split(top, split)
    if folder is not None and _is_flat(folder):
        raise AttnbenchError(
            f"{folder} is flat, as the devkit has it: its ground truth is in other numbers than the sorted "
            f"wnids; move the images into folders of their wnid first. Expected: {EXPECTED}"
        )
    found = open_any(top, split)
    if len(found.classes) != CLASSES:
        raise AttnbenchError(
            f"{top} has {len(found.classes)} classes, ImageNet-1K {CLASSES}; "
            "for another set of images give its path alone, without 'imagenet:'"
        )
    if isinstance(found, image_folder.FolderSource) and (found.classes[0], found.classes[-1]) != (
        FIRST,
        LAST,
    ):
        raise AttnbenchError(f"{top}: the classes are not ImageNet-1K's wnids, {FIRST} to {LAST}")
    return found


def open_any(root: Path, split: str) -> ImageSource:
    """The images of a split in whichever of the three forms the folder has."""
    for part in [p for p in (find_split(root, split), root) if p is not None]:
        for suffix, kind in ((".tar", image_shards), (".parquet", image_parquet)):
            if any(part.glob(f"*{suffix}")):
                return kind.images(root, split)
    return image_folder.images(root, split)


def _is_flat(folder: Path) -> bool:
    return any(path.suffix.lower() in (".jpeg", ".jpg") for path in folder.iterdir())
