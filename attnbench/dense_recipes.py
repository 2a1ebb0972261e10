"""How a dense model is trained and tested, as data: one TOML file a recipe, read without torch.

The files lie in ``harness/dense/recipes``; their figures are those of the authors' released configurations at
the commit that ``source`` names. A recipe of one's own is a path that ends in ``.toml``.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from attnbench.heads import HEADS, TASK_OF
from attnbench.recipe_files import Part, RecipeFile, read

_FOLDER = Path(__file__).parent / "harness" / "dense" / "recipes"
if not _FOLDER.is_dir():  # a checkout without symbolic links, not installed
    _FOLDER = Path(__file__).parent.parent / "harness" / "dense" / "recipes"
IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class Schedule(Part):
    """How long, and the learning rate as mmcv's hooks set it; the warm-up scales the rate beneath it.

    Args:
        iterations: updates; 0 where ``epochs`` says how long.
        epochs: passes over the data; 0 where ``iterations`` does.
        shape: ``cosine`` or ``poly`` from the first update to the last, or ``step``: a tenth from each
            epoch of ``steps`` on.
        power: of ``poly``.
        final: lowest rate as a share of the peak, of ``cosine`` and ``poly``.
        steps: epochs, from 0.
        warmup: updates in which the factor rises linearly from ``warmup_ratio`` to 1.
    """

    iterations: int = Field(0, ge=0)
    epochs: int = Field(0, ge=0)
    shape: Literal["cosine", "poly", "step"] = "poly"
    power: float = Field(1.0, gt=0)
    final: float = Field(0.0, ge=0, lt=1)
    steps: tuple[int, ...] = ()
    warmup: int = Field(0, ge=0)
    warmup_ratio: float = Field(0.1, ge=0, le=1)

    @model_validator(mode="after")
    def _check(self) -> "Schedule":
        if bool(self.iterations) == bool(self.epochs):
            raise ValueError("give iterations or epochs, one of them")
        return self


class Optimizer(Part):
    """AdamW.

    Args:
        lr: peak rate, whatever the batch.
        no_decay: what has no weight decay: ``layer_norm``, ``position`` (tables of relative positions);
            empty for decay of everything.
        clip_grad: largest norm of the gradient; 0 for no limit.
    """

    lr: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    no_decay: tuple[Literal["layer_norm", "position"], ...] = ()
    clip_grad: float = Field(0.0, ge=0)


class Input(Part):
    """From an image to a model's input.

    Args:
        fit: long and short side that an image is resized to fit into; 0, 0 for its own size.
        scales: range of a factor of ``fit`` in training.
        crop: side of a training sample; 0 for the whole image.
        most_of_one_class: share that a class may have of a crop.
        flip: probability in training.
        photometric: distort colours in training.
        align: a test's sides are rounded up to multiples by resizing; 0 for not at all.
        mean, std: of the channels, in units of 0 to 255.
    """

    fit: tuple[int, int] = (0, 0)
    scales: tuple[float, float] = (1.0, 1.0)
    crop: int = Field(0, ge=0)
    most_of_one_class: float = Field(0.75, gt=0, le=1)
    flip: float = Field(0.5, ge=0, le=1)
    photometric: bool = False
    align: int = Field(0, ge=0)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


class Test(Part):
    """How a segmenter is tested.

    Args:
        mode: ``whole`` image, or ``slide``: crops whose logits are averaged where they overlap.
        crop, stride: of ``slide``, in pixels.
        scales: factors of the test's size; probabilities are averaged.
        flip: also the mirror image.
        every: updates between tests while training; 0 for the end only.
        select: ``last`` weights or those of the ``best`` test, as the authors report; both are recorded.
    """

    __test__ = False  # not one of pytest's

    mode: Literal["whole", "slide"] = "whole"
    crop: int = Field(512, ge=1)
    stride: int = Field(341, ge=1)
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    every: int = Field(0, ge=0)
    select: Literal["last", "best"] = "last"


class DenseRecipe(RecipeFile):
    """All that training and testing a dense model needs to know besides backbone and data.

    Args:
        head: see :data:`attnbench.heads.HEADS`.
        widths: of the head; empty for the papers'.
        dataset: that the figures are for; another can be given.
        global_batch: images an update, over all devices.
        drop_path: rate of the last block; ``None`` for the layout's.
        nominal: size that tables of positions are made for; 0 for the layout's, as pretrained weights need.
        options: of mechanisms, by name: what a mechanism is set to at this size, as its authors do.
        precision: the authors'; what ran stands in the record.
    """

    open_tables = frozenset({"widths", "options"})

    head: str
    widths: dict[str, int] = Field(default_factory=dict)
    dataset: str
    global_batch: int = Field(ge=1)
    drop_path: float | None = Field(None, ge=0, lt=1)
    nominal: int = Field(0, ge=0)
    options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    schedule: Schedule
    optimizer: Optimizer
    input: Input = Field(default_factory=lambda: Input.model_validate({}))
    test: Test = Field(default_factory=lambda: Test.model_validate({}))

    @model_validator(mode="after")
    def _check(self) -> "DenseRecipe":
        if self.head not in HEADS:
            raise ValueError(f"head must be one of {', '.join(HEADS)}")
        return self

    @property
    def task(self) -> str:
        """``semantic`` or ``detection``."""
        return TASK_OF[self.head]


def names(task: str = "") -> list[str]:
    """Names of the recipes, or of those of a task."""
    return [name for name in _files() if not task or get(name).task == task]


def get(name: str) -> DenseRecipe:
    """A recipe by name, or by the path of its ``.toml`` file.

    Raises:
        AttnbenchError: there is none, or the file is no recipe: an unknown key is an error.
    """
    return read(DenseRecipe, name, _files())


def _files() -> dict[str, Path]:
    return {path.stem: path for path in sorted(_FOLDER.glob("*.toml"))}
