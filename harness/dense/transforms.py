"""From an image as it lies on disk to a model's input: resizing, cropping, flipping, colours, normalising.

Form: the pipelines of mmsegmentation and mmdetection (``Resize``, ``RandomCrop``, ``RandomFlip``,
``PhotoMetricDistortion``, ``Normalize``, ``Pad``). Randomness comes from one numpy generator a sample, which
is made from (seed, epoch, index): any number of workers gives the same pixels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as vision

from attnbench.dense_recipes import Input
from attnbench.harness.dense.samples import Array, Objects, Sample
from attnbench.harness.dense.segmenter import IGNORE

Size = tuple[int, int]


class Segmented(NamedTuple):
    """A training sample: image (3, height, width), normalised; labels (height, width) int64."""

    image: Tensor
    labels: Tensor


class Detected(NamedTuple):
    """A training sample: image (3, height, width), normalised, and its objects, none of them a crowd."""

    image: Tensor
    target: dict[str, Tensor]


def fitted(size: Sequence[int], fit: Size, scale: float = 1.0) -> Size:
    """Height and width of an image resized to fit into ``scale`` times (long, short), its ratio kept."""
    if not any(fit):
        factor = scale
    else:
        long, short = (int(side * scale + 0.5) for side in fit)
        factor = min(long / max(size), short / min(size))
    return int(size[0] * factor + 0.5), int(size[1] * factor + 0.5)


def resized(image: Tensor, size: Size) -> Tensor:
    """A uint8 image (3, height, width) at another size: bilinear without antialiasing, as OpenCV does it."""
    if tuple(image.shape[-2:]) == size:
        return image
    return vision.resize(image, list(size), InterpolationMode.BILINEAR, antialias=False)


def normalised(image: Tensor, given: Input) -> Tensor:
    """(3, height, width) float32: (pixel − mean) / std, in units of 0 to 255."""
    mean, std = torch.tensor(given.mean), torch.tensor(given.std)
    return (image.float() - mean[:, None, None]) / std[:, None, None]


def as_tensor(image: Array) -> Tensor:
    """(height, width, 3) as (3, height, width)."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)


def segmented(sample: Sample, given: Input, random: np.random.Generator) -> Segmented:
    """A training sample of ``given.crop`` pixels a side, or as it is with 0.

    Raises:
        ValueError: the sample has no labels of pixels.
    """
    if sample.labels is None:
        raise ValueError(f"image {sample.image_id} has no labels of pixels")
    image, labels = as_tensor(sample.image), torch.from_numpy(sample.labels.astype(np.int64))
    scale = float(random.uniform(*given.scales)) if given.scales[0] != given.scales[1] else given.scales[0]
    size = fitted(image.shape[-2:], given.fit, scale)
    image = resized(image, size)
    labels = F.interpolate(labels[None, None].float(), size, mode="nearest")[0, 0].long()
    if given.crop:
        top, left = _crop(labels, given, random)
        image = image[:, top : top + given.crop, left : left + given.crop]
        labels = labels[top : top + given.crop, left : left + given.crop]
    if random.random() < given.flip:
        image, labels = image.flip(-1), labels.flip(-1)
    if given.photometric:
        image = _distorted(image, random)
    image = normalised(image, given)
    if given.crop:  # after normalising: padding is zero there
        right, bottom = given.crop - image.shape[-1], given.crop - image.shape[-2]
        image = F.pad(image, (0, right, 0, bottom))
        labels = F.pad(labels, (0, right, 0, bottom), value=IGNORE)
    return Segmented(image, labels)


def detected(sample: Sample, given: Input, random: np.random.Generator, first_label: int = 0) -> Detected:
    """A training sample, resized to fit and perhaps flipped.

    Args:
        sample: has objects.
        given: of the recipe.
        random: decides about the flip.
        first_label: number of the first class: 0 for RetinaNet, 1 for Mask R-CNN.

    Raises:
        ValueError: the sample has no objects annotated.
    """
    if sample.objects is None:
        raise ValueError(f"image {sample.image_id} has no objects annotated")
    image = as_tensor(sample.image)
    size = fitted(image.shape[-2:], given.fit)
    found = usable(sample.objects)
    factor = np.asarray([size[1], size[0]] * 2) / np.asarray([image.shape[-1], image.shape[-2]] * 2)
    boxes = torch.from_numpy((found.boxes * factor).astype(np.float32))
    masks = torch.from_numpy(found.masks.astype(np.uint8))
    if masks.shape[-2:] != size:
        masks = F.interpolate(masks[None].float(), size, mode="nearest")[0].byte()
    image = resized(image, size)
    if random.random() < given.flip:
        image, masks = image.flip(-1), masks.flip(-1)
        boxes = torch.stack([size[1] - boxes[:, 2], boxes[:, 1], size[1] - boxes[:, 0], boxes[:, 3]], dim=1)
    labels = torch.from_numpy(found.classes.astype(np.int64)) + first_label
    return Detected(normalised(image, given), {"boxes": boxes, "labels": labels, "masks": masks})


def usable(objects: Objects) -> Objects:
    """Those of the objects that a detector is trained on: no crowds, and boxes of a pixel a side at least."""
    sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
    keep = ~objects.crowd & (sides >= 1).all(1) & (objects.areas > 0)
    parts = (objects.boxes, objects.classes, objects.masks, objects.crowd, objects.areas)
    return Objects(*(part[keep] for part in parts))


def for_test(image: Tensor, given: Input, scale: float = 1.0) -> Tensor:
    """A test's input: resized to fit, each side up to a multiple of ``given.align``, normalised."""
    height, width = fitted(image.shape[-2:], given.fit, scale)
    if given.align:
        height, width = (-(-side // given.align) * given.align for side in (height, width))
    return normalised(resized(image, (height, width)), given)


def _crop(labels: Tensor, given: Input, random: np.random.Generator) -> Size:
    """Upper left corner of a crop in which no class has too large a share; the tenth draw is taken as is."""
    room = [max(side - given.crop, 0) for side in labels.shape]
    for _ in range(10):
        top, left = (int(random.integers(0, space + 1)) for space in room)
        part = labels[top : top + given.crop, left : left + given.crop]
        counts = part[part != IGNORE].bincount()
        if (counts > 0).sum() > 1 and counts.max() / counts.sum() < given.most_of_one_class:
            break
    return top, left


def _distorted(image: Tensor, random: np.random.Generator) -> Tensor:
    """Brightness, contrast (before or after the colours), saturation and hue, each with probability ½."""
    pixels = image.permute(1, 2, 0).numpy().astype(np.float32)
    if random.integers(2):
        pixels = pixels + random.uniform(-32, 32)
    early = random.integers(2)
    if early and random.integers(2):
        pixels = pixels * random.uniform(0.5, 1.5)
    hsv = np.asarray(Image.fromarray(_bytes(pixels)).convert("HSV")).astype(np.float32)
    if random.integers(2):
        hsv[..., 1] *= random.uniform(0.5, 1.5)
    if random.integers(2):
        hsv[..., 0] = (hsv[..., 0] + random.uniform(-18, 18) * 256 / 180) % 256
    pixels = np.asarray(Image.fromarray(_bytes(hsv), "HSV").convert("RGB")).astype(np.float32)
    if not early and random.integers(2):
        pixels = pixels * random.uniform(0.5, 1.5)
    return as_tensor(_bytes(pixels))


def _bytes(pixels: Array) -> Array:
    return np.clip(pixels, 0, 255).astype(np.uint8)
