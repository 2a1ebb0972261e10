"""Scenes, ADE20K and COCO: what is read, and what is said of data that are missing, partial or damaged."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from attnbench import datasets
from attnbench.dense_recipes import Input
from attnbench.errors import AttnbenchError
from attnbench.harness.data.ade20k import ADE20K
from attnbench.harness.data.coco import COCO
from attnbench.harness.data.scenes import STUFF, Scenes
from attnbench.harness.dense.coding import encode
from attnbench.harness.dense.tasks import grouped
from attnbench.harness.dense.transforms import detected, fitted, for_test, segmented
from attnbench.harness.training.order import Draw


def test_a_scene_is_a_function_of_seed_split_and_index() -> None:
    first, again = Scenes(seed=3).read("train", 7), Scenes(seed=3, train=8).read("train", 7)
    np.testing.assert_array_equal(first.image, again.image)
    assert first.labels is not None
    np.testing.assert_array_equal(first.labels, again.labels)
    for other in (
        Scenes(seed=4).read("train", 7),
        Scenes(seed=3).read("test", 7),
        Scenes(seed=3).read("train", 8),
    ):
        assert (first.image != other.image).any()


def test_masks_boxes_and_labels_of_a_scene_agree() -> None:
    scenes = Scenes(height=40, width=100)
    seen = set()
    for index in range(20):
        sample = scenes.read("test", index)
        labels, objects = sample.labels, sample.objects
        assert labels is not None
        assert objects is not None
        assert sample.image.shape == (40, 100, 3)
        seen |= set(np.unique(labels).tolist())
        for box, kind, mask, area in zip(
            objects.boxes, objects.classes, objects.masks, objects.areas, strict=True
        ):
            assert (labels[mask] == kind + 1).all()
            assert mask.sum() == area > 0
            rows, columns = np.nonzero(mask)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        covered = objects.masks.any(0)
        assert ((labels >= 1) & (labels <= 6) <= covered).all()  # no thing without an object
    assert seen == set(range(len(STUFF)))


def test_blobs_and_bodies_of_lines_look_alike_in_pairs_and_the_rest_is_far_off() -> None:
    """Mean colour of a blob, or of a line away from its cap, does not tell which it is; post and cap do."""
    scenes = Scenes()
    colours: dict[int, list[Any]] = {kind: [] for kind in range(9)}
    for index in range(60):
        sample = scenes.read("train", index)
        labels = sample.labels
        assert labels is not None
        middle = np.zeros_like(labels, bool)
        middle[:, 20:-20] = True
        for kind in range(3, 9):
            mask = (labels == kind) & (middle if kind > 6 else True)
            if mask.any():
                colours[kind].append(sample.image[mask].mean(0))
        blobs, posts = (
            np.nonzero((labels == 3) | (labels == 4))[1],
            np.nonzero((labels == 5) | (labels == 6))[1],
        )
        assert min(abs(blobs[:, None] - posts[None]).min(1)) >= 0.5 * labels.shape[1]
    mean = {kind: np.mean(found, axis=0) for kind, found in colours.items() if found}
    for a, b in ((3, 4), (7, 8)):
        assert np.abs(mean[a] - mean[b]).max() < 3
    assert np.abs(mean[5] - mean[6]).max() > 100


def test_scenes_too_small_are_refused() -> None:
    with pytest.raises(AttnbenchError, match="at least 24 × 48 pixels, got 8 × 96"):
        Scenes(height=8)
    with pytest.raises(AttnbenchError, match="one image a split"):
        Scenes(test=0)


def test_the_data_sets_are_found_without_being_imported() -> None:
    assert {"scenes", "ade20k"} <= set(datasets.names("semantic"))
    assert "coco" in datasets.names("detection")
    assert datasets.get("ade20k").facts.num_classes == 150


@pytest.fixture
def ade(tmp_path: Path) -> Path:
    """Three training images and a test image with ADE20K's layout."""
    root = tmp_path / "ADEChallengeData2016"
    for folder, count in (("training", 3), ("validation", 1)):
        for kind in ("images", "annotations"):
            (root / kind / folder).mkdir(parents=True)
        for index in range(count):
            pixels = np.full((20, 30, 3), 40 * index, np.uint8)
            labels = np.arange(600, dtype=np.uint8).reshape(20, 30) % 151
            Image.fromarray(pixels).save(root / "images" / folder / f"a{index}.jpg")
            Image.fromarray(labels).save(root / "annotations" / folder / f"a{index}.png")
    return tmp_path


def test_ade20k_counts_from_the_first_class_and_ignores_the_rest(ade: Path) -> None:
    data = ADE20K(ade, partial=True)
    assert [len(data.ids(split)) for split in ("train", "test")] == [3, 1]
    assert data.size("train", 0) == (20, 30)
    sample = data.read("train", 1)
    assert sample.labels is not None
    assert sample.labels.flatten()[:3].tolist() == [255, 0, 1]
    assert sample.labels.flatten()[150] == 149


def test_what_is_wrong_with_ade20k_is_said_in_a_line(ade: Path, tmp_path: Path) -> None:
    root = ade / "ADEChallengeData2016"
    with pytest.raises(AttnbenchError, match="no folder images/training; expected ADEChallengeData2016"):
        ADE20K(tmp_path / "nowhere")
    with pytest.raises(AttnbenchError, match="has 3 of 20,210 images of training"):
        ADE20K(ade)
    path = root / "images" / "training" / "a0.jpg"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(AttnbenchError, match=r"a0\.jpg cannot be decoded"):
        ADE20K(ade, partial=True).read("train", 0)
    Image.fromarray(np.full((20, 30), 200, np.uint8)).save(root / "annotations" / "training" / "a1.png")
    with pytest.raises(AttnbenchError, match=r"label 200; ADE20K's are 0 to 150"):
        ADE20K(ade, partial=True).read("train", 1)
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(root / "annotations" / "training" / "a1.png")
    with pytest.raises(AttnbenchError, match=r"its image \(20, 30\)"):
        ADE20K(ade, partial=True).read("train", 1)
    (root / "annotations" / "training" / "a2.png").unlink()
    with pytest.raises(AttnbenchError, match=r"1 images of training lack a label image, .* first is a2"):
        ADE20K(ade, partial=True)


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Scenes in COCO's layout: polygons, run lengths and a crowd; one image that cannot be learnt from."""
    scenes = Scenes(height=40, width=96, train=3, test=2)
    (tmp_path / "annotations").mkdir()
    for split, folder in (("train", "train2017"), ("test", "val2017")):
        (tmp_path / folder).mkdir()
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index in range(len(scenes.ids(split))):
            sample = scenes.read(split, index)
            assert sample.objects is not None
            Image.fromarray(sample.image).save(tmp_path / folder / f"{index}.png")
            images.append({"id": 10 + index, "file_name": f"{index}.png", "height": 40, "width": 96})
            objects = sample.objects
            for place in range(len(objects.boxes) if (split, index) != ("train", 2) else 0):
                x1, y1, x2, y2 = objects.boxes[place].tolist()
                runs = encode(objects.masks[place])
                runs["counts"] = runs["counts"].decode()
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": 10 + index,
                        "category_id": 10 * (1 + int(objects.classes[place])),
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "area": float(objects.areas[place]),
                        "iscrowd": int(place == 1),
                        "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]] if place == 0 else runs,
                    }
                )
        categories = [{"id": 10 * n, "name": f"c{n}"} for n in range(6, 0, -1)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (tmp_path / "annotations" / f"instances_{folder}.json").write_text(json.dumps(content))
    return tmp_path


def test_coco_is_read_with_its_gaps_closed(coco: Path) -> None:
    data = COCO(coco, partial=True)
    assert data.classes.category_ids == (10, 20, 30, 40, 50, 60)
    assert list(data.ids("train")) == [10, 11]  # the third has no object
    scenes = Scenes(height=40, width=96, train=3, test=2)
    found, drawn = data.read("train", 1).objects, scenes.read("train", 1).objects
    assert found is not None
    assert drawn is not None
    np.testing.assert_array_equal(found.boxes, drawn.boxes)
    np.testing.assert_array_equal(found.classes, drawn.classes)
    np.testing.assert_array_equal(found.masks[1:], drawn.masks[1:])
    x1, y1, x2, y2 = drawn.boxes[0].astype(int)
    assert found.masks[0][y1:y2, x1:x2].all()
    assert found.crowd.tolist() == [place == 1 for place in range(len(found.boxes))]


def test_what_is_wrong_with_coco_is_said_in_a_line(coco: Path, tmp_path: Path) -> None:
    with pytest.raises(AttnbenchError, match=r"has no annotations/instances_train2017\.json"):
        COCO(tmp_path / "nowhere")
    with pytest.raises(AttnbenchError, match="has 3 of 118,287 images of train2017"):
        COCO(coco)
    (coco / "train2017" / "0.png").write_bytes(b"no image")
    with pytest.raises(AttnbenchError, match=r"0\.png cannot be decoded"):
        COCO(coco, partial=True).read("train", 0)
    (coco / "val2017" / "1.png").unlink()
    with pytest.raises(AttnbenchError, match=r"1 of 2 images are not in val2017, the first is 1\.png"):
        COCO(coco, partial=True)
    path = coco / "annotations" / "instances_val2017.json"
    path.write_text(path.read_text()[:500])
    with pytest.raises(AttnbenchError, match=r"cannot be read as JSON.*download it again"):
        COCO(coco, partial=True)
    path.write_text('{"images": []}')
    with pytest.raises(AttnbenchError, match="has no annotations, categories; it is not COCO's"):
        COCO(coco, partial=True)


def test_an_image_is_fitted_as_mmcv_fits_it() -> None:
    assert fitted((480, 640), (1333, 800)) == (800, 1067)
    assert fitted((427, 640), (1333, 800)) == (800, 1199)
    assert fitted((300, 640), (1333, 800)) == (625, 1333)
    assert fitted((512, 683), (2048, 512), 1.5) == (768, 1025)
    assert fitted((31, 47), (0, 0)) == (31, 47)


def test_segmentation_samples_are_cropped_padded_and_repeatable() -> None:
    sample = Scenes(height=40, width=96).read("train", 0)
    given = Input(fit=(192, 80), scales=(0.5, 2.0), crop=64, photometric=True)
    for seed in range(6):
        found, again = (segmented(sample, given, np.random.default_rng(seed)) for _ in range(2))
        assert found.image.shape == (3, 64, 64)
        assert found.labels.shape == (64, 64)
        assert torch.equal(found.image, again.image)
        padded = (found.image == 0).all(0)
        assert bool((found.labels[padded] == 255).all())
    small = segmented(sample, Input(fit=(192, 80), scales=(0.5, 0.5), crop=64), np.random.default_rng(0))
    assert bool((small.labels[40:] == 255).all())
    assert bool((small.image[:, 40:] == 0).all())  # after normalising


def test_flipping_takes_boxes_masks_and_labels_along() -> None:
    sample = Scenes().read("train", 0)
    plain, mirrored = (detected(sample, Input(flip=p), np.random.default_rng(0), 1) for p in (0.0, 1.0))
    assert torch.equal(plain.image.flip(-1), mirrored.image)
    assert torch.equal(plain.target["masks"].flip(-1), mirrored.target["masks"])
    x1, y1, x2, y2 = plain.target["boxes"].T
    assert torch.equal(mirrored.target["boxes"], torch.stack([96 - x2, y1, 96 - x1, y2], dim=1))
    assert int(plain.target["labels"].min()) >= 1
    larger = detected(sample, Input(fit=(192, 48), flip=0.0), np.random.default_rng(0))
    torch.testing.assert_close(larger.target["boxes"], 2 * plain.target["boxes"])
    assert larger.image.shape == (3, 48, 192)


def test_a_tests_image_is_aligned_by_resizing() -> None:
    image = torch.zeros(3, 50, 70, dtype=torch.uint8)
    assert for_test(image, Input(align=32)).shape == (3, 64, 96)
    assert for_test(image, Input(align=32), 0.5).shape == (3, 32, 64)
    assert for_test(image, Input()).shape == (3, 50, 70)


def test_a_batch_is_of_one_orientation() -> None:
    draws = [Draw(0, 0, index) for index in range(11)]
    tall = [index % 3 == 0 for index in range(11)]
    found = grouped(draws, tall, 2)
    assert sorted(draw.sample for draw in found) == list(range(11))
    for start in range(0, 8, 2):
        assert tall[found[start].sample] == tall[found[start + 1].sample]
