"""Folders, tar shards, parquet files, CIFAR and digits: the same pictures, and what is refused."""

import pickle
from collections.abc import Callable
from pathlib import Path

import made_images
import numpy as np
import pytest

from attnbench import datasets
from attnbench.errors import AttnbenchError
from attnbench.harness.data import image_folder, image_parquet, image_shards, imagenet
from attnbench.harness.data._images import BadImageError, ImageSource
from attnbench.harness.training.data_paths import open_images


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_images.folder(tmp_path_factory.mktemp("images") / "made")


def pictures(source: ImageSource) -> list[tuple[int, bytes | None]]:
    found = []
    for index in range(len(source)):
        try:
            image, label = source.get(index)
        except BadImageError:
            found.append((-1, None))
        else:
            assert image.mode == "RGB"
            found.append((label, image.tobytes()))
    return sorted(found, key=str)


def test_three_forms_hold_the_same_pictures(made: Path, tmp_path: Path) -> None:
    forms = [
        made,
        made_images.shards(made, tmp_path / "tar"),
        made_images.parquet(made, tmp_path / "parquet"),
    ]
    for split, count in (("train", 240), ("test", 60)):
        sources = [open_images("", str(root), split) for root in forms]
        kinds = (image_folder.FolderSource, image_shards.ShardSource, image_parquet.ParquetSource)
        assert [type(source) for source in sources] == list(kinds)
        assert [len(source) for source in sources] == [count] * 3
        assert len({source.classes for source in sources}) == 1
        first = pictures(sources[0])
        assert [pictures(source) for source in sources[1:]] == [first, first]
        assert [label for label, _ in first].count(-1) == (made_images.BROKEN if split == "train" else 0)


def test_what_cannot_be_decoded_is_named(made: Path) -> None:
    source = open_images("", str(made), "train")
    bad = []
    for index in range(len(source)):
        try:
            source.get(index)
        except BadImageError as error:
            bad.append(str(error))
    assert sorted(line.partition(":")[0] for line in bad) == [
        "n00000000/image_0010.JPEG",
        "n00000004/image_0009.JPEG",
    ]
    assert any("the file is empty" in line for line in bad)


def test_parquet_is_shuffled_by_row_groups(made: Path, tmp_path: Path) -> None:
    source = open_images("", str(made_images.parquet(made, tmp_path / "parquet")), "train")
    assert [len(block) for block in source.blocks] == [50, 50, 50, 50, 40]
    assert source.name(57) == "train-00000-of-00001.parquet/1/7"


def test_other_images_are_another_fingerprint(made: Path, tmp_path: Path) -> None:
    one = open_images("", str(made), "train").fingerprint()
    assert one == open_images("", str(made), "train").fingerprint()
    assert (
        one != open_images("", str(made_images.folder(tmp_path / "more", train=245)), "train").fingerprint()
    )


def test_digits_are_pictures_of_the_same_split() -> None:
    train, test = (open_images("digits", "", split) for split in ("train", "test"))
    assert (len(train), len(test), train.channels) == (1198, 599, 1)
    image, label = test.get(0)
    assert (image.size, image.mode, 0 <= label < 10) == ((8, 8), "L", True)


def test_cifar_is_read_where_torchvision_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    place = tmp_path / "cifar-10-batches-py"
    place.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (3, 3072), dtype=np.uint8)
    for name in [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]:
        (place / name).write_bytes(pickle.dumps({"data": pixels, "labels": [1, 2, 3]}))
    (place / "batches.meta").write_bytes(pickle.dumps({"label_names": [str(n) for n in range(10)]}))
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5: True)
    source = open_images("cifar10", str(tmp_path), "train")
    assert (len(source), source.get(4)[0].size, source.get(4)[1]) == (15, (32, 32), 2)


def test_a_thousand_classes_are_imagenet(tmp_path: Path) -> None:
    for number in range(1000):
        name = {0: "n01440764", 999: "n15075141"}.get(number, f"n02{number:06d}")
        for split in ("train", "val"):
            (tmp_path / split / name).mkdir(parents=True)
    (tmp_path / "train" / "n01440764" / "a.png").write_bytes(made_images.png())
    assert len(imagenet.images(tmp_path, "train").classes) == 1000


def _flat(root: Path) -> None:
    (root / "val" / "ILSVRC2012_val_00000001.JPEG").write_bytes(b"")


def _missing_class(root: Path) -> None:
    (root / "val" / "n00000009").mkdir()


WRONG: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "flat": (_flat, "imagenet", r"is flat, as the devkit has it: .* move the images into folders"),
    "five classes": (lambda root: None, "imagenet", "has 5 classes, ImageNet-1K 1000"),
    "other classes": (_missing_class, "", r"different classes \(only in test: n00000009\)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_layouts_that_are_not_what_they_should_be(tmp_path: Path, case: str) -> None:
    spoil, name, told = WRONG[case]
    root = made_images.folder(tmp_path / "made", train=10, test=5)
    spoil(root)
    with pytest.raises(AttnbenchError, match=told):
        open_images(name, str(root), "test")


def test_absent_data_show_the_layout_that_is_expected(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, place, told in (
        ("imagenet", tmp_path / "none", r"there is no folder .*none of images; expected: train/<wnid>/"),
        ("", tmp_path / "empty", r"no folder for the split 'train'; expected: train/<class>/<image>"),
        ("cifar10", tmp_path / "empty", r"no CIFAR10 in .*expected cifar-10-batches-py/ .* or --download"),
        ("image_shards", tmp_path / "empty", r"no tar shards for the split 'train'; expected: train/\*\.tar"),
        ("image_parquet", tmp_path / "empty", r"no parquet files for the split 'train'; expected: train-"),
        ("majority", tmp_path / "empty", "data set majority cannot be trained on"),
    ):
        with pytest.raises(AttnbenchError, match=told):
            open_images(name, str(place), "train")


def test_shards_without_classes_or_cut_are_refused(tmp_path: Path) -> None:
    import tarfile

    (tmp_path / "a.png").write_bytes(made_images.png())
    with tarfile.open(tmp_path / "x-train-0.tar", "w") as tar:
        tar.add(tmp_path / "a.png", "a.png")
    with pytest.raises(AttnbenchError, match="a has no class; expected"):
        image_shards.images(tmp_path, "train")
    (tmp_path / "x-train-0.tar").write_bytes((tmp_path / "x-train-0.tar").read_bytes()[:300])
    with pytest.raises(AttnbenchError, match="is no whole tar file"):
        image_shards.images(tmp_path, "train")


def test_they_are_listed_like_any_data_set() -> None:
    found = set(datasets.names("classification"))
    assert {
        "imagenet",
        "image_folder",
        "image_shards",
        "image_parquet",
        "cifar10",
        "cifar100",
        "digits",
    } <= found
