"""Images in parquet files, as the data-set hubs give them: columns ``image`` (with ``bytes``) and ``label``.

A file gives up a whole row group at a time, so an epoch shuffles row groups, and images within 16 of them.
"""

import functools
from bisect import bisect_right
from pathlib import Path
from typing import Any

from attnbench.datasets import register_dataset
from attnbench.errors import AttnbenchError
from attnbench.harness.data._images import ImageSource, files_of_split, need_root

EXPECTED = (
    "train-*.parquet and validation-*.parquet (or in folders train and val) with the columns image (bytes, "
    "or a struct with bytes) and label (number of the class); names of classes in classes.txt, if any"
)


class ParquetSource(ImageSource):
    """Images in row groups of parquet files."""

    def __init__(
        self, files: list[Path], classes: list[str], labels: list[list[int]], sizes: list[list[int]]
    ) -> None:
        self.files = [str(path) for path in files]
        self.groups = [(f, g) for f, of in enumerate(sizes) for g in range(len(of))]
        self.starts, total = [], 0
        for rows in (rows for of in sizes for rows in of):
            self.starts.append(total)
            total += rows
        ends = [*self.starts[1:], total]
        super().__init__(classes, [range(a, b) for a, b in zip(self.starts, ends, strict=True)])
        self.labels = [label for of in labels for label in of]

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """File, row group and row of an image."""
        group = bisect_right(self.starts, index) - 1
        file, number = self.groups[group]
        return f"{Path(self.files[file]).name}/{number}/{index - self.starts[group]}"

    def read(self, index: int) -> tuple[bytes, int]:
        """Bytes of an image, and its class."""
        group = bisect_right(self.starts, index) - 1
        file, number = self.groups[group]
        content = _group(self.files[file], number)[index - self.starts[group]]
        return bytes(content or b""), self.labels[index]


@register_dataset(
    "image_parquet",
    title="Images in parquet files",
    task="classification",
    num_classes=0,
    sizes="any",
    splits=("train", "test"),
    licence="that of the images",
    source="the user",
    obtained="a path: parquet files with the columns image and label",
)
def images(root: str | Path, split: str, download: bool = False) -> ImageSource:
    """The images of a split; nothing is downloaded.

    Raises:
        AttnbenchError: pyarrow is absent, there are no files, or one has other columns.
    """
    top = need_root(root, EXPECTED)
    files = files_of_split(top, split, ".parquet")
    if not files:
        raise AttnbenchError(f"{top} has no parquet files for the split {split!r}; expected: {EXPECTED}")
    found = [_describe(path) for path in files]
    labels = [of for of, _ in found]
    listed = top / "classes.txt"
    if listed.is_file():
        classes = listed.read_text(encoding="utf-8").split()
    else:
        others = files_of_split(top, "test" if split == "train" else "train", ".parquet")
        everything = labels + [_describe(path)[0] for path in others]
        classes = [str(number) for number in range(max(max(of, default=0) for of in everything) + 1)]
    if any(not 0 <= label < len(classes) for of in labels for label in of):
        raise AttnbenchError(f"{top} has a class number beyond the {len(classes)} that {listed} names")
    return ParquetSource(files, classes, labels, [of for _, of in found])


def _arrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise AttnbenchError("parquet files need pyarrow: pip install 'attnbench[train]'") from error
    return pyarrow


def _describe(path: Path) -> tuple[list[int], list[int]]:
    """Classes of a file's images, and the rows of its row groups."""
    arrow = _arrow()
    try:
        file = arrow.parquet.ParquetFile(path)
        names = file.schema_arrow.names
        if not {"image", "label"} <= set(names):
            raise AttnbenchError(f"{path} has the columns {', '.join(names)}; expected: {EXPECTED}")
        labels = file.read(columns=["label"]).column("label").to_pylist()
        sizes = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
    except (arrow.ArrowException, OSError) as error:
        raise AttnbenchError(f"{path} cannot be read as parquet: {error}") from error
    if not all(isinstance(label, int) for label in labels):
        raise AttnbenchError(f"{path}: the column label holds no class numbers; expected: {EXPECTED}")
    return labels, sizes


@functools.lru_cache(maxsize=16)
def _group(path: str, number: int) -> list[bytes | None]:
    """The images of a row group, encoded; the last 16 are kept, which an epoch's order relies on."""
    column = _arrow().parquet.ParquetFile(path).read_row_group(number, columns=["image"]).column("image")
    return [row.get("bytes") if isinstance(row, dict) else row for row in column.to_pylist()]
