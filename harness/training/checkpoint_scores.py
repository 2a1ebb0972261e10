"""What ``attnbench eval`` does: weights of any origin into their model, and the model over a test split."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from attnbench import recipes
from attnbench.configurations import Configuration
from attnbench.errors import AttnbenchError
from attnbench.harness.data._images import ImageSource
from attnbench.harness.models.backbone import create_model
from attnbench.harness.models.checkpoints import load_checkpoint
from attnbench.harness.training import checkpoint
from attnbench.harness.training.classification import moments
from attnbench.harness.training.data_paths import called, open_images
from attnbench.harness.training.evaluation import score
from attnbench.harness.training.image_transforms import for_evaluation
from attnbench.harness.training.images import Damage
from attnbench.harness.training.ranks import Ranks
from attnbench.recipes import Evaluation, Recipe

TIMM = Evaluation(crop="center", crop_pct=0.9, interpolation="bicubic")
"""How timm tests its Swin models."""


@dataclass(frozen=True)
class Request:
    """What ``attnbench eval`` was asked for; see its help for the meaning of each field."""

    checkpoint: Path
    data: str
    root: str
    crops: tuple[str, ...]
    model: Configuration | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    key_map: str = ""
    part: str = ""
    recipe: Recipe | None = None
    resolution: int = 0
    batch_size: int = 64
    workers: int = 0
    max_bad_images: int = -1
    download: bool = False


@dataclass(frozen=True)
class Weights:
    """A model with weights in it.

    Args:
        name: of the weights: ``raw``, ``mean`` (of ``attnbench train``), or the part of a released file.
        size: pixels a side that it was trained with.
        recipe: that it was trained by, where that is known.
    """

    name: str
    model: nn.Module
    size: int
    recipe: str = ""


def run(request: Request, ranks: Ranks, say: Callable[[str], None]) -> list[str]:
    """Accuracy of all weights of a file, a line each.

    Raises:
        AttnbenchError: the file, the model and the data do not fit each other.
    """
    images = open_images(request.data, request.root, "test", request.download)
    limit = request.max_bad_images if request.max_bad_images >= 0 else max(10, len(images) // 1000)
    damage = Damage(limit, say)
    lines = []
    for weights in load(request, images):
        weights.model.to(ranks.device)
        size = request.resolution or weights.size
        for name, how in _crops(request, weights):
            transform = for_evaluation(how, size, *moments(images, images.channels), images.channels)
            found = score(
                weights.model, images, transform, ranks, damage, request.batch_size, request.workers
            )
            lines.append(
                f"{weights.name} weights, crop of {name} ({how.crop}, {how.crop_pct}) at {size} px: top-1 "
                f"{found['top1']:.3f} %, top-5 {found['top5']:.3f} % of {int(found['images']):,} images"
            )
    return [f"{request.checkpoint} on {called(request.data, request.root)}", *lines]


def load(request: Request, images: ImageSource) -> Iterator[Weights]:
    """The weights of a file, each in a model of its own.

    Raises:
        AttnbenchError: the file is none, or of another model, or of another number of classes.
    """
    if request.model is None:
        yield from _trained(request, images)
        return
    layout, mechanism, options = request.model
    model = create_model(layout, mechanism, **{**options, **request.options})
    _check_classes(model.num_classes, model.in_chans, images)
    loaded = load_checkpoint(model, request.checkpoint, request.key_map or None, request.part or None)
    yield Weights(loaded.part or "released", model, model.layout.img_size)


def _trained(request: Request, images: ImageSource) -> Iterator[Weights]:
    if request.checkpoint.suffix != ".safetensors":
        raise AttnbenchError(
            f"{request.checkpoint} is not a checkpoint of 'attnbench train' (.safetensors); for released "
            "weights give --model, e.g. biformer_stl"
        )
    try:
        state = checkpoint.read(request.checkpoint)
        facts = state.facts["identity"]
        wanted = {k: facts[k] for k in ("layout", "mechanism", "classes", "in_chans", "size", "options")}
    except (checkpoint.DamagedError, KeyError) as error:
        raise AttnbenchError(f"{error}; for released weights give --model, e.g. biformer_stl") from error
    _check_classes(wanted["classes"], wanted["in_chans"], images)
    parts = {"model": "raw", "model_ema": "mean"}
    if request.part and request.part not in parts:
        raise AttnbenchError(f"{request.checkpoint} has the parts model and model_ema, not {request.part!r}")
    for part, name in parts.items():
        prefix = {"model": "model.", "model_ema": "ema."}[part]
        tensors = {k.removeprefix(prefix): t for k, t in state.tensors.items() if k.startswith(prefix)}
        if tensors and request.part in ("", part):
            yield Weights(name, _model(wanted, tensors), wanted["size"], facts.get("recipe_name", ""))


def _model(wanted: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> nn.Module:
    model = create_model(
        wanted["layout"],
        wanted["mechanism"],
        num_classes=wanted["classes"],
        in_chans=wanted["in_chans"],
        img_size=wanted["size"],
        token_labels="aux_head.weight" in tensors,
        **wanted["options"],
    )
    try:
        model.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise AttnbenchError(
            f"the checkpoint's weights do not fit {wanted['layout']} with {wanted['mechanism']} as they are: "
            f"{str(error).splitlines()[-1].strip()[:200]}"
        ) from error
    return model


def _check_classes(classes: int, channels: int, images: ImageSource) -> None:
    if classes != len(images.classes):
        raise AttnbenchError(
            f"the weights tell {classes} classes, the data have {len(images.classes)}; give the data that "
            "they were trained on"
        )
    if channels != images.channels:
        raise AttnbenchError(
            f"the weights take images of {channels} channels, the data have {images.channels}"
        )


def _crops(request: Request, weights: Weights) -> Iterator[tuple[str, Evaluation]]:
    for name in request.crops:
        if name == "timm":
            yield name, TIMM
            continue
        recipe = request.recipe
        if recipe is None:
            recipe = recipes.get(weights.recipe if weights.recipe in recipes.names() else "swin_t")
        yield f"{recipe.name}'s authors", recipe.evaluation
