"""How a model is trained, as data: one TOML file a recipe, read without torch.

The files lie in ``harness/training/recipes``; their figures are those of the authors' released code at the
commit that ``source`` names, also where a paper says otherwise. What is odd about a recipe is listed in its
``oddities`` and reproduced. A recipe of one's own is a path that ends in ``.toml``, or a file of a package
that an entry point of group ``attnbench.recipes`` names (``my_package.recipes``).
"""

import importlib.metadata
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from attnbench.recipe_files import Part, RecipeFile, read

_FOLDER = Path(__file__).parent / "harness" / "training" / "recipes"
if not _FOLDER.is_dir():  # a checkout without symbolic links, not installed
    _FOLDER = Path(__file__).parent.parent / "harness" / "training" / "recipes"


class Schedule(Part):
    """Epochs, and the shape of the learning rate over them: linear warm-up, then half a cosine.

    Args:
        epochs: span of the cosine.
        cooldown_epochs: trained at the lowest rate after it.
        warmup_epochs: in which the rate rises from ``warmup_lr``.
        warmup_prefix: the cosine begins after the warm-up, not beneath it.
        per: the rate changes once an ``epoch`` or with each ``update``.
        late: by how many of these the rate lags behind (timm's scheduler stepped with the number of the
            epoch, or update, that has just ended: the first two run at ``warmup_lr``).
    """

    epochs: int = Field(ge=1)
    cooldown_epochs: int = Field(default=0, ge=0)
    warmup_epochs: int = Field(ge=0)
    warmup_prefix: bool = False
    per: Literal["epoch", "update"] = "epoch"
    late: int = Field(default=0, ge=0, le=1)

    @property
    def total_epochs(self) -> int:
        """Epochs that are run."""
        return self.epochs + self.cooldown_epochs


class Optimizer(Part):
    """AdamW and its rates.

    Args:
        lr: peak rate, of ``lr_per_images`` images an update; with 0 of any number.
        scale_all: ``warmup_lr`` and ``min_lr`` are scaled with the batch too.
        weight_decay: of all but norms, biases and tables of positions.
        clip_grad: largest norm of the gradient; 0 for no limit.
    """

    lr: float = Field(gt=0)
    lr_per_images: int = Field(default=0, ge=0)
    warmup_lr: float = Field(default=1e-6, ge=0)
    min_lr: float = Field(default=1e-5, ge=0)
    scale_all: bool = False
    weight_decay: float = Field(default=0.05, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)
    clip_grad: float = Field(default=0.0, ge=0)

    def rates(self, global_batch: int) -> tuple[float, float, float]:
        """Warm-up, peak and lowest rate for so many images an update."""
        factor = global_batch / self.lr_per_images if self.lr_per_images else 1.0
        other = factor if self.scale_all else 1.0
        return self.warmup_lr * other, self.lr * factor, self.min_lr * other


class Augmentation(Part):
    """What is done to training images, in timm's words.

    Args:
        repeats: draws of an image in the epochs that draw it (repeated augmentation).
        auto_augment: timm's string of RandAugment or AutoAugment; empty for none.
        color_jitter: recorded as the authors have it; timm leaves it out where ``auto_augment`` is set.
        erasing: probability; pixels of noise, one box.
        mixup, cutmix: α; ``mix_prob`` of a batch to be mixed, ``switch_prob`` of CutMix where both are.
        smoothing: of labels.
    """

    repeats: int = Field(default=1, ge=1)
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (0.75, 4 / 3)
    hflip: float = Field(default=0.5, ge=0, le=1)
    interpolation: Literal["bicubic", "bilinear", "random"] = "bicubic"
    auto_augment: str = "rand-m9-mstd0.5-inc1"
    color_jitter: float = Field(default=0.4, ge=0)
    erasing: float = Field(default=0.25, ge=0, le=1)
    mixup: float = Field(default=0.8, ge=0)
    cutmix: float = Field(default=1.0, ge=0)
    mix_prob: float = Field(default=1.0, ge=0, le=1)
    switch_prob: float = Field(default=0.5, ge=0, le=1)
    smoothing: float = Field(default=0.1, ge=0, lt=1)

    @property
    def mixes(self) -> bool:
        """Whether images are mixed with each other."""
        return self.mixup > 0 or self.cutmix > 0


class TokenLabels(Part):
    """Token labelling: every token is told what it shows (LV-ViT, arXiv:2104.10858).

    Args:
        dense_weight, cls_weight: of the tokens' and of the image's part of the loss.
        ground_truth: blend the labels with the image's own.
        mix_token: exchange a box of the map behind the stem with the flipped batch.
        box: how a stored crop is read: ``height_width`` as it was written; ``released`` as the authors'
            code hands it on, its axes exchanged.
    """

    dense_weight: float = Field(default=1.0, ge=0)
    cls_weight: float = Field(default=1.0, ge=0)
    ground_truth: bool = False
    mix_token: bool = True
    box: Literal["height_width", "released"] = "height_width"


class Evaluation(Part):
    """How images are cropped in the test, and which weights and epoch the authors report.

    Args:
        crop: ``center``: the short side to size / ``crop_pct``, then the centre; ``squash``: both sides.
        weights: ``raw`` or ``ema``; both are scored.
        select: ``last`` or ``best`` epoch of the test split, as the authors did; both are recorded.
    """

    crop: Literal["center", "squash"] = "center"
    crop_pct: float = Field(default=0.875, gt=0, le=1)
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    weights: Literal["raw", "ema"] = "raw"
    select: Literal["last", "best"] = "last"


class Recipe(RecipeFile):
    """All that a training run needs to know besides model and data.

    Args:
        gpus: that the authors trained on.
        global_batch: images an update, over all devices.
        device_batch: images that one device took at once; images are mixed within it.
        drop_path: rate of the last block; ``None`` for the layout's.
        ema_decay: of the running mean of weights and buffers; 0 for none.
        precision: the authors'; what really ran stands in the record.
        broadcast_buffers: DDP gives the first rank's BatchNorm statistics to all before each forward pass.
    """

    words = RecipeFile.words | {"gpus"}

    gpus: int = 8
    image_size: int = Field(default=224, ge=1)
    global_batch: int = Field(default=1024, ge=1)
    device_batch: int = Field(default=128, ge=1)
    drop_path: float | None = Field(default=None, ge=0, lt=1)
    ema_decay: float = Field(default=0.0, ge=0, lt=1)
    precision: Literal["fp32", "fp16", "bf16"] = "fp16"
    broadcast_buffers: bool = True
    schedule: Schedule
    optimizer: Optimizer
    augmentation: Augmentation = Augmentation()
    token_labels: TokenLabels | None = None
    evaluation: Evaluation = Evaluation()

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        if self.token_labels and self.augmentation.mixes:
            raise ValueError("token_labels needs augmentation.mixup = 0 and cutmix = 0; tokens are mixed")
        return self


def names() -> list[str]:
    """Names of the recipes that are installed."""
    return sorted({path.stem for path in _files()})


def get(name: str) -> Recipe:
    """A recipe by name, or by the path of its ``.toml`` file.

    Raises:
        AttnbenchError: there is none, or the file is no recipe: an unknown key is an error.
    """
    return read(Recipe, name, {path.stem: path for path in _files()})


def differences(a: Recipe, b: Recipe) -> list[tuple[str, Any, Any]]:
    """Settings in which two recipes differ: dotted name, value of the first, of the second.

    The rates are compared as they are at the recipe's batch, whatever rule gave them.
    """
    one, other = (_effective(recipe) for recipe in (a, b))
    keys = dict.fromkeys([*one, *other])
    return [(key, one.get(key), other.get(key)) for key in keys if one.get(key) != other.get(key)]


def _effective(recipe: Recipe) -> dict[str, Any]:
    flat = recipe.flat()
    for key in ("lr", "lr_per_images", "warmup_lr", "min_lr", "scale_all"):
        del flat[f"optimizer.{key}"]
    warmup, peak, lowest = recipe.optimizer.rates(recipe.global_batch)
    rates = {"peak lr": peak, "warm-up lr": warmup, "lowest lr": lowest}
    if recipe.augmentation.auto_augment:
        del flat["augmentation.color_jitter"]  # without effect, see Augmentation
    return flat | {name: float(f"{value:.6g}") for name, value in rates.items()}


def _files() -> Iterator[Path]:
    yield from sorted(_FOLDER.glob("*.toml"))
    for entry in importlib.metadata.entry_points(group="attnbench.recipes"):
        found = importlib.util.find_spec(entry.module)
        if found is not None and found.origin:
            yield from sorted(Path(found.origin).parent.glob("*.toml"))
