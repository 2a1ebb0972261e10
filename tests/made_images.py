"""A small ImageNet, made up: JPEGs of several sizes, some as odd as in the real one, some broken."""

import io
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

BROKEN = 2
"""Training images of :func:`folder` that cannot be decoded: one cut, one empty."""


def folder(root: Path, train: int = 240, test: int = 60, classes: int = 5, broken: bool = True) -> Path:
    """Folders of classes; among the training images one is grey, one CMYK, one cut short, one empty.

    A class has a colour of its own, so that there is something to learn.
    """
    draw = np.random.default_rng(0)
    for split, count in (("train", train), ("val", test)):
        for number in range(count):
            label = number % classes
            place = root / split / f"n{label:08d}"
            place.mkdir(parents=True, exist_ok=True)
            path = place / f"image_{number:04d}.JPEG"
            height, width = draw.integers(24, 80, 2)
            noise = draw.random((height, width, 3)) * 100
            colour = np.array([label * 36, 150 - 30 * label, 75])
            image = Image.fromarray((noise + colour).clip(0, 255).astype(np.uint8))
            odd = {7: "L", 8: "CMYK"}.get(number, "RGB") if split == "train" else "RGB"
            image.convert(odd).save(path, "JPEG")
            if broken and split == "train" and number in (9, 10):
                path.write_bytes(path.read_bytes()[: 600 if number == 9 else 0])
    return root


def paths(root: Path, split: str) -> list[Path]:
    """The images of a split in the order of their numbers."""
    return sorted((root / split).rglob("*.JPEG"))


def shards(images: Path, root: Path) -> Path:
    """The same images as webdataset's own writer puts them into tar files, 100 to a file."""
    import webdataset

    names = sorted(path.name for path in (images / "train").iterdir())
    root.mkdir()
    (root / "classes.txt").write_text("\n".join(names))
    for split in ("train", "val"):
        with webdataset.ShardWriter(str(root / f"made-{split}-%03d.tar"), maxcount=100, verbose=0) as writer:
            for path in paths(images, split):
                label = names.index(path.parent.name)
                writer.write({"__key__": path.stem, "jpg": path.read_bytes(), "cls": label})
    return root


def parquet(images: Path, root: Path) -> Path:
    """The same images as the data-set hubs give them, 50 to a row group."""
    import pyarrow
    import pyarrow.parquet

    names = sorted(path.name for path in (images / "train").iterdir())
    root.mkdir()
    (root / "classes.txt").write_text("\n".join(names))
    for split, name in (("train", "train"), ("val", "validation")):
        found = paths(images, split)
        rows = [{"bytes": path.read_bytes(), "path": path.name} for path in found]
        labels = [names.index(path.parent.name) for path in found]
        table = pyarrow.table({"image": rows, "label": labels})
        pyarrow.parquet.write_table(table, root / f"{name}-00000-of-00001.parquet", row_group_size=50)
    return root


def token_labels(images: Path, root: Path, classes: int = 5) -> Path:
    """Maps of labels for the training images: the right class above, others below."""
    generator = torch.Generator().manual_seed(0)
    names = sorted(path.name for path in (images / "train").iterdir())
    for path in paths(images, "train"):
        place = (root / path.relative_to(images / "train")).with_suffix(".pt")
        place.parent.mkdir(parents=True, exist_ok=True)
        numbers = torch.stack([torch.randperm(classes, generator=generator) for _ in range(36)])
        logits = torch.randn(36, 5, generator=generator) + 4 * (numbers == names.index(path.parent.name))
        torch.save(torch.stack([logits.T, numbers.T.float()]).view(2, 5, 6, 6).half(), place)
    return root


def png(side: int = 4) -> bytes:
    """The bytes of a picture."""
    file = io.BytesIO()
    Image.new("RGB", (side, side), (10, 20, 30)).save(file, "PNG")
    return file.getvalue()


def facts_of(checkpoint: Path) -> dict:
    """What a checkpoint says of itself."""
    size = int.from_bytes(checkpoint.read_bytes()[:8], "little")
    header = json.loads(checkpoint.read_bytes()[8 : 8 + size])
    return json.loads(header["__metadata__"]["facts"])
