"""Image classification with token labels as a task of the loop."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from attnbench.errors import AttnbenchError
from attnbench.harness.data._images import BadImageError, ImageSource
from attnbench.harness.training.classification import Classification, moments
from attnbench.harness.training.images import TRIES
from attnbench.harness.training.order import Draw
from attnbench.harness.training.randomness import seed_sample
from attnbench.harness.training.token_labels import MixToken, smoothed, token_label_loss
from attnbench.harness.training.token_maps import LabelledTransform, label_map, read_map
from attnbench.recipes import Recipe, TokenLabels


class LabelledBatch(NamedTuple):
    """Images (B, C, H, W), classes (B,), shares of image and tokens (B, 1 + size², classes), the bad."""

    images: Tensor
    labels: Tensor
    maps: Tensor
    bad: tuple[str, ...] = ()


class Labelled(Dataset[Any]):
    """Training images with the labels of their tokens, each a function of its draw."""

    def __init__(
        self, source: ImageSource, transform: LabelledTransform, folder: Path, size: int, box: str
    ) -> None:
        self.source, self.transform, self.folder, self.size, self.box = source, transform, folder, size, box

    def __getitem__(self, draw: Draw) -> tuple[Tensor, int, Tensor, tuple[str, ...]]:
        bad: list[str] = []
        for step in range(min(TRIES, len(self.source))):
            index = (draw.sample + step) % len(self.source)
            try:
                image, label = self.source.get(index)
            except BadImageError as error:
                bad.append(str(error))
                continue
            stored = read_map((self.folder / self.source.name(index)).with_suffix(".pt"))
            seed_sample(draw.seed, "sample", draw.epoch, draw.sample, draw.repeat)
            pixels, moved, crop = self.transform(image, *stored.shape[2:])
            maps = label_map(stored, moved, crop, self.size, len(self.source.classes), self.box)
            return pixels, label, maps, tuple(bad)
        raise AttnbenchError(f"{len(bad)} images in a row cannot be decoded, the last is {bad[-1]}")


def collate(samples: Sequence[tuple[Tensor, int, Tensor, tuple[str, ...]]]) -> LabelledBatch:
    """A batch of samples."""
    images, labels, maps, bad = zip(*samples, strict=True)
    names = tuple(name for of in bad for name in of)
    return LabelledBatch(torch.stack(images), torch.tensor(labels), torch.stack(maps), names)


class TokenLabelling(Classification):
    """Tell the class of an image and what each token shows.

    Args:
        labels: folder of the tokens' labels, see :mod:`~attnbench.harness.training.token_maps`.

    Raises:
        AttnbenchError: there is no such folder.
    """

    collate = staticmethod(collate)

    def __init__(self, recipe: Recipe, *arguments: Any, labels: str, **common: Any) -> None:
        if not labels or not Path(labels).expanduser().is_dir():
            raise AttnbenchError(
                f"recipe {recipe.name} needs --token-labels DIR: a file .pt for each training image, tensors "
                f"(2, 5, height, width) of an annotator's logits and classes; got {labels or 'none'}"
            )
        self.folder = Path(labels).expanduser()
        assert recipe.token_labels is not None
        self.settings: TokenLabels = recipe.token_labels
        super().__init__(recipe, *arguments, **common)

    def make_data(self, size: int, channels: int) -> Labelled:
        """The training images with the labels of their tokens; a token of the last map is 32 pixels wide."""
        transform = LabelledTransform(
            self.recipe.augmentation, size, *moments(self.train, channels), channels
        )
        return Labelled(self.train, transform, self.folder, self.tokens, self.settings.box)

    def wrap(self, model: nn.Module) -> nn.Module:
        """Gives logits of image and tokens, un-mixed, and the share of the image's own tokens."""
        return MixToken(model, mix=self.settings.mix_token)

    def loss(self, module: nn.Module, batch: Any) -> Tensor:
        """The weighted sum of the image's cross-entropy and the tokens'."""
        self.damage.note(batch.bad)
        logits, token_logits, share = module(batch.images)
        smoothing, classes = self.recipe.augmentation.smoothing, logits.shape[1]
        maps = smoothed(batch.maps, smoothing)
        target, tokens = maps[:, 0], maps[:, 1:].view(token_logits.shape)
        if self.settings.ground_truth:
            truth = smoothed(nn.functional.one_hot(batch.labels, classes).float(), smoothing)
            agree = (target.argmax(1) == batch.labels).float()[:, None]
            weight = 0.9 - 0.4 * agree
            target = weight * truth + (1 - weight) * target
        target = share * target + (1 - share) * target.flip(0)
        return token_label_loss(
            logits, token_logits, target, tokens, self.settings.dense_weight, self.settings.cls_weight
        )
