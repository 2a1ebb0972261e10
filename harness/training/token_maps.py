"""Maps of labels for token labelling: read, moved with the image, cut out with its crop.

An annotator's map of an image is a tensor (2, 5, H, W): at each place its five largest logits, and their
classes. Source: Jiang et al., arXiv:2104.10858, and the authors' code (zihangJiang/TokenLabeling), whose
order of transforms it is: flip, RandAugment (what moves pixels moves the map too), the crop last.
"""

import copy
import pickle
import random
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from timm.data.auto_augment import rand_augment_transform
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor
from torchvision import transforms
from torchvision.ops import roi_align
from torchvision.transforms import functional

from attnbench.errors import AttnbenchError
from attnbench.harness.training.image_transforms import for_training, mend_posterize
from attnbench.recipes import Augmentation

_MOVES = ("Rotate", "Shear", "Translate")


class Crop(NamedTuple):
    """A crop as shares of the image: top, left, height, width."""

    top: float
    left: float
    height: float
    width: float


def read_map(path: Path) -> Tensor:
    """An annotator's map (2, 5, H, W) in float32.

    Raises:
        AttnbenchError: there is none, or it is none.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise AttnbenchError(
            f"there is no map of labels {path}; expected in --token-labels: a file .pt for each image, in a "
            "tree like that of the training images"
        ) from error
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise AttnbenchError(f"{path} cannot be read as a map of labels: {str(error)[:200]}") from error
    if not (isinstance(found, Tensor) and found.ndim == 4 and found.shape[0] == 2):
        raise AttnbenchError(f"{path} is no map of labels: expected a tensor (2, 5, height, width)")
    return found.float()


def label_map(stored: Tensor, moved: Tensor, crop: Crop, size: int, num_classes: int, box: str) -> Tensor:
    """What the tokens of a crop show, and the crop as a whole.

    Args:
        stored: (2, 5, H, W), see :func:`read_map`.
        moved: (H, W), the place of ``stored`` that is seen at each place of the whole image; -1 for none.
        crop: of the whole image.
        size: tokens a side.
        box: how the crop is read, see :class:`attnbench.recipes.TokenLabels`.

    Returns:
        (1 + size², num_classes) shares: of the crop, then of its tokens row by row.

    Raises:
        AttnbenchError: a class is beyond ``num_classes``.
    """
    logits, classes = stored.flatten(2)  # each (5, H·W)
    if classes.max() >= num_classes:
        raise AttnbenchError(
            f"a map of labels has class {int(classes.max())}, the data {num_classes} classes"
        )
    dense = torch.zeros(num_classes, moved.numel() + 1)  # the last place: nothing is seen
    dense[:, :-1].scatter_(0, classes.long(), logits)
    dense = dense[:, moved.flatten()].view(1, num_classes, *moved.shape)
    height, width = moved.shape
    top, left, down, right = crop.top, crop.left, crop.top + crop.height, crop.left + crop.width
    if box == "released":
        top, left, down, right = left, top, right, down
    place = torch.tensor([[0, left * width, top * height, right * width, down * height]])
    parts = [
        roi_align(dense, place, (side, side), aligned=True).view(num_classes, -1).T.softmax(dim=1)
        for side in (1, size)
    ]
    return torch.cat(parts)


class LabelledTransform:
    """A training image and what of its map of labels is left in it."""

    def __init__(
        self, recipe: Augmentation, size: int, mean: tuple[float, ...], std: tuple[float, ...], channels: int
    ) -> None:
        self.recipe = recipe
        self.crop = RandomResizedCropAndInterpolation(size, interpolation=recipe.interpolation)
        self.operations: Any = None
        if recipe.auto_augment:
            means = tuple(min(255, round(255 * value)) for value in (mean * 3)[:3])
            self.operations = rand_augment_transform(
                recipe.auto_augment, {"translate_const": int(size * 0.45), "img_mean": means}
            )
            mend_posterize(self.operations)
        bare = recipe.model_copy(update={"auto_augment": "", "color_jitter": 0.0, "hflip": 0.0})
        whole: Any = for_training(bare, size, mean, std, channels)
        self.last = transforms.Compose([*whole.transforms[3:]])

    def __call__(self, image: Image.Image, height: int, width: int) -> tuple[Tensor, Tensor, Crop]:
        """The image (C, size, size); the places of a map of height × width seen in it; the crop."""
        image = image.convert("RGB")
        places = torch.arange(height * width, dtype=torch.int32).view(height, width) + 1  # 0: nothing
        where = Image.fromarray(places.numpy()).resize(image.size, Image.Resampling.NEAREST)
        if random.random() < self.recipe.hflip:
            image, where = (i.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for i in (image, where))
        if self.operations is not None:
            image, where = self._augment(image, where)
        top, left, tall, wide = self.crop.get_params(image, self.recipe.scale, self.recipe.ratio)
        how = self.crop.interpolation
        how = random.choice(how) if isinstance(how, (list, tuple)) else how
        cut = functional.resized_crop(image, top, left, tall, wide, self.crop.size, how)
        seen = np.asarray(where.resize((width, height), Image.Resampling.NEAREST), dtype=np.int64) - 1
        crop = Crop(top / image.height, left / image.width, tall / image.height, wide / image.width)
        return self.last(cut), torch.from_numpy(seen), crop

    def _augment(self, image: Image.Image, where: Image.Image) -> tuple[Image.Image, Image.Image]:
        """RandAugment, as timm does it, on the image; what moves pixels moves ``where`` alike."""
        chosen = np.random.choice(self.operations.ops, self.operations.num_layers)
        for operation in chosen:
            state = random.getstate()
            image = operation(image)
            if operation.name.startswith(_MOVES):
                after = random.getstate()
                alike = copy.copy(operation)
                alike.kwargs = {"fillcolor": 0, "resample": Image.Resampling.NEAREST}
                random.setstate(state)
                where = alike(where)
                random.setstate(after)
        return image, where
