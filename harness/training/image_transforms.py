"""What a recipe does to images, made of timm's transforms."""

from collections.abc import Callable
from typing import Any

from PIL import Image
from timm.data import auto_augment, create_transform
from torch import Tensor
from torchvision import transforms

from attnbench.recipes import Augmentation, Evaluation

Transform = Callable[[Image.Image], Tensor]


def for_training(
    recipe: Augmentation, size: int, mean: tuple[float, ...], std: tuple[float, ...], channels: int = 3
) -> Transform:
    """Random crop, flip, RandAugment, normalisation, erasing, in timm's order.

    Returns:
        Maps an image to (channels, size, size).
    """
    first, second, last = create_transform(
        size,
        is_training=True,
        scale=recipe.scale,
        ratio=recipe.ratio,
        hflip=recipe.hflip,
        color_jitter=recipe.color_jitter or None,
        auto_augment=recipe.auto_augment or None,
        interpolation=recipe.interpolation,
        mean=mean,
        std=std,
        re_prob=recipe.erasing,
        re_mode="pixel",
        re_count=1,
        separate=True,
    )
    for policy in second.transforms:
        mend_posterize(policy)
    return transforms.Compose([_colour, first, second, *_grey(channels), last])


def mend_posterize(policy: Any) -> None:
    """Let a policy keep 0 bits of an image, which is black, as it could with Pillow before 12.

    RandAugment's largest magnitude asks for it, one image in some hundreds; Pillow now refuses.
    """
    for operation in getattr(policy, "ops", ()):
        if operation.name.startswith("Posterize"):
            operation.aug_fn = _posterize


def _posterize(image: Image.Image, bits_to_keep: int, **settings: Any) -> Image.Image:
    if bits_to_keep < 1:
        return Image.new(image.mode, image.size)
    return auto_augment.posterize(image, bits_to_keep, **settings)


def for_evaluation(
    recipe: Evaluation, size: int, mean: tuple[float, ...], std: tuple[float, ...], channels: int = 3
) -> Transform:
    """Resize and crop as the authors test.

    ``center``: the short side to ⌊size / crop_pct⌋, then the centre. ``squash``: both sides.

    Returns:
        Maps an image to (channels, size, size).
    """
    whole: Any = create_transform(
        size,
        is_training=False,
        crop_pct=recipe.crop_pct,
        crop_mode=recipe.crop,
        interpolation=recipe.interpolation,
        mean=mean,
        std=std,
    )
    return transforms.Compose([*_grey(channels), whole])


def _colour(image: Image.Image) -> Image.Image:
    """RandAugment's operations want three channels."""
    return image.convert("RGB")


def _grey(channels: int) -> list[Any]:
    return [transforms.Grayscale(1)] if channels == 1 else []
