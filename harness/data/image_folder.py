"""Any folder of images, one folder a class, as torchvision and ImageNet have it."""

from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from attnbench.datasets import register_dataset
from attnbench.errors import AttnbenchError
from attnbench.harness.data._images import ImageSource, find_split, need_root, same_classes

EXPECTED = "train/<class>/<image> and val/<class>/<image>; classes are numbered in the order of their names"


class FolderSource(ImageSource):
    """Images in a folder for each class."""

    def __init__(self, folder: Path, classes: list[str]) -> None:
        super().__init__(classes)
        self.folder = folder
        numbers = {name: number for number, name in enumerate(classes)}
        self.files = make_dataset(str(folder), numbers, extensions=IMG_EXTENSIONS, allow_empty=True)
        if not self.files:
            raise AttnbenchError(
                f"{folder} has folders of classes but no images ({', '.join(IMG_EXTENSIONS)})"
            )

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        """Path of an image below the split's folder."""
        return self.files[index][0][len(str(self.folder)) + 1 :]

    def read(self, index: int) -> tuple[bytes, int]:
        """Bytes of an image's file, and its class."""
        path, label = self.files[index]
        return Path(path).read_bytes(), label


@register_dataset(
    "image_folder",
    title="Folder of images",
    task="classification",
    num_classes=0,
    sizes="any",
    splits=("train", "test"),
    licence="that of the images",
    source="the user",
    obtained="a path: train/<class>/<image> and val/<class>/<image>",
)
def images(root: str | Path, split: str, download: bool = False) -> ImageSource:
    """The images of a split; nothing is downloaded.

    Raises:
        AttnbenchError: the folder has another layout, or its splits have different classes.
    """
    top = need_root(root, EXPECTED)
    folder = find_split(top, split)
    if folder is None:
        raise AttnbenchError(f"{top} has no folder for the split {split!r}; expected: {EXPECTED}")
    names = _classes(folder)
    other = find_split(top, "test" if split == "train" else "train")
    if other is not None:
        same_classes(*((names, _classes(other)) if split == "train" else (_classes(other), names)), top)
    return FolderSource(folder, names)


def _classes(folder: Path) -> list[str]:
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if not names:
        flat = " (images that lie in it directly have no class)" if any(folder.iterdir()) else ""
        raise AttnbenchError(f"{folder} has no folders of classes{flat}; expected: {EXPECTED}")
    return names
