"""From what ``attnbench train`` was asked for to a run of the loop, and from its result to records."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from attnbench import store
from attnbench.errors import AttnbenchError
from attnbench.harness.data._images import ImageSource
from attnbench.harness.models.backbone import Backbone, create_model
from attnbench.harness.training import checkpoint, loop, records
from attnbench.harness.training.classification import Classification, make_optimizer
from attnbench.harness.training.data_paths import called, open_images
from attnbench.harness.training.order import make_plan
from attnbench.harness.training.randomness import seed_of
from attnbench.harness.training.ranks import Ranks
from attnbench.harness.training.schedule import CosineSchedule
from attnbench.progress import PlainProgress, QuietProgress, TerminalProgress
from attnbench.recipes import Recipe
from attnbench.registry import get

Progress = TerminalProgress | PlainProgress | QuietProgress


@dataclass(frozen=True)
class Request:
    """What ``attnbench train`` was asked for; see its help for the meaning of each field.

    ``recipe`` has the changes that were asked for; ``changes`` says which.
    """

    layout: str
    mechanism: str
    recipe: Recipe
    out: Path
    data: str = ""
    root: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    impl: str = "auto"
    seed: int = 0
    precision: str = "auto"
    resolution: int = 0
    device_batch: int = 0
    workers: int = -1
    checkpoint_every: int = 0
    evaluate_every: int = 1
    max_bad_images: int = -1
    token_labels: str = ""
    download: bool = False
    stop_after: int = 0
    shrunk: int = 0
    """Images at once, where more were found not to fit."""

    @property
    def size(self) -> int:
        """Pixels a side."""
        return self.resolution or self.recipe.image_size


def train(request: Request, ranks: Ranks, progress: Progress) -> loop.Result:
    """Train, going on from what ``request.out`` holds, and append the records of what came out.

    Raises:
        AttnbenchError: data, model, recipe and ranks do not fit each other; or see :func:`loop.train`.
    """
    if ranks.first:
        store.check_writable(request.out)
        progress.say(describe(request, ranks))
    train_set, test_set = open_splits(request, ranks)
    while True:
        run = prepare(request, ranks, train_set, test_set, progress)
        try:
            result = loop.train(run)
            break
        except torch.OutOfMemoryError as error:
            request = replace(request, shrunk=_smaller(request, run, error))
            progress.say(
                f"warning: {run.plan.micro_batch} images at once do not fit the device's memory; "
                f"{request.shrunk} may, {run.plan.global_batch} an update as before, gradients summed"
            )
    if ranks.first and result.updates == run.plan.updates:
        found = records.of(request, run, result, (train_set, test_set))
        records.append_once(request.out / "records" / "train.jsonl", found)
    return result


def _smaller(request: Request, run: loop.Run, error: torch.OutOfMemoryError) -> int:
    """Half of the images at once, where nothing has been trained with more and no rank waits for this one.

    Raises:
        AttnbenchError: it is for the user to say.
    """
    half = run.plan.micro_batch // 2
    begun = checkpoint.peek(request.out) is not None
    if request.device_batch or begun or run.ranks.world > 1 or half < 2:
        raise AttnbenchError(
            f"{run.plan.micro_batch} images at once do not fit the device's memory; give --device-batch "
            f"{max(1, half)}, and another --out if this run has checkpoints: the global batch of "
            f"{run.plan.global_batch} stays, gradients are summed"
        ) from error
    return half


def _at_once(request: Request) -> int:
    """Most images at once: as asked for, as the run was begun with, or as the recipe's authors had it."""
    found = checkpoint.peek(request.out)
    begun_with = found["identity"].get("micro_batch", 0) if found else 0
    return request.device_batch or begun_with or request.shrunk or request.recipe.device_batch


def open_splits(request: Request, ranks: Ranks) -> tuple[ImageSource, ImageSource]:
    """Both splits; the first rank is the one that may download.

    Raises:
        AttnbenchError: they are not there, or do not have the same classes.
    """
    opened = []
    for split in ("train", "test"):
        if ranks.first:
            open_images(request.data, request.root, split, True) if request.download else None
        ranks.wait()
        opened.append(open_images(request.data, request.root, split))
    train_set, test_set = opened
    if train_set.classes != test_set.classes:
        raise AttnbenchError(
            f"the splits of {called(request.data, request.root)} have different classes: "
            f"{len(train_set.classes)} in train, {len(test_set.classes)} in test"
        )
    return train_set, test_set


def prepare(
    request: Request, ranks: Ranks, train_set: ImageSource, test_set: ImageSource, progress: Progress
) -> loop.Run:
    """The run of the loop that a request means.

    Raises:
        AttnbenchError: data, model, recipe and ranks do not fit each other.
    """
    recipe = request.recipe
    model = build(request, len(train_set.classes), train_set.channels).to(ranks.device)
    limit = request.max_bad_images
    if limit < 0:
        limit = max(10, len(train_set) // 1000)
    task = _task(
        request,
        train_set,
        test_set,
        model.in_chans,
        tokens=model.layout.map_sizes(request.size, request.size)[-1][0],
        say=progress.say,
        limit=limit,
        workers=_workers(request, ranks),
    )
    plan = make_plan(
        task.draws(),
        recipe.schedule.total_epochs,
        recipe.global_batch,
        _at_once(request),
        ranks.world,
        request.seed,
        recipe.augmentation.mixes or recipe.token_labels is not None,
    )
    optimizer = make_optimizer(model, recipe)
    precision = _precision(request, ranks)
    identity = {
        "recipe": recipe.digest(),
        "layout": request.layout,
        "layout_digest": model.layout.digest(),
        "mechanism": request.mechanism,
        "source": get(request.mechanism).digest(),
        "options": dict(request.options),
        "impl": request.impl,
        "data": f"{train_set.fingerprint()} {test_set.fingerprint()}",
        "classes": len(train_set.classes),
        "in_chans": model.in_chans,
        "size": request.size,
        "precision": precision,
        "recipe_name": recipe.name,
        **asdict(plan),
    }
    if progress_warning := _warnings(request):
        progress.say(progress_warning)
    return loop.Run(
        model,
        task,
        optimizer,
        CosineSchedule(optimizer, recipe, plan.steps),
        plan,
        request.out,
        identity=identity,
        ranks=ranks,
        clip_grad=recipe.optimizer.clip_grad,
        ema_decay=recipe.ema_decay,
        precision=precision,
        workers=_workers(request, ranks),
        every=request.checkpoint_every,
        evaluate_every=request.evaluate_every,
        broadcast_buffers=recipe.broadcast_buffers,
        stop_after=request.stop_after,
        progress=progress,
    )


def build(request: Request, num_classes: int, channels: int) -> Backbone:
    """The model for images of so many classes and channels, its weights drawn from the seed.

    Raises:
        AttnbenchError: it cannot be built.
    """
    recipe = request.recipe
    options: dict[str, Any] = {"num_classes": num_classes, "in_chans": channels, **request.options}
    options["img_size"] = request.size
    if recipe.drop_path is not None:
        options["drop_path_rate"] = recipe.drop_path
    if recipe.token_labels is not None:
        options["token_labels"] = True
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(request.seed, "model"))
        return create_model(request.layout, request.mechanism, impl=request.impl, **options)


def describe(request: Request, ranks: Ranks) -> str:
    """What is trained, in a line."""
    recipe = request.recipe
    changed = f" with {', '.join(f'{k}={v}' for k, v in request.changes.items())}" if request.changes else ""
    return (
        f"{request.layout} with {request.mechanism} on {called(request.data, request.root)}, "
        f"recipe {recipe.name}{changed} ({recipe.digest()}), "
        f"{recipe.schedule.total_epochs} epochs, seed {request.seed}, "
        f"{ranks.world} x {ranks.device.type}"
    )


def _task(
    request: Request, train_set: ImageSource, test_set: ImageSource, channels: int, **common: Any
) -> Classification:
    arguments = (request.recipe, train_set, test_set, request.size, channels, request.seed)
    if request.recipe.token_labels is None:
        if request.token_labels:
            raise AttnbenchError(
                f"--token-labels is of recipes that use them; {request.recipe.name} does not"
            )
        return Classification(*arguments, **common)
    from attnbench.harness.training.token_task import TokenLabelling

    return TokenLabelling(*arguments, labels=request.token_labels, **common)


def _warnings(request: Request) -> str:
    shape = request.recipe.schedule
    if shape.epochs <= shape.warmup_epochs:
        return (
            f"warning: the warm-up of {shape.warmup_epochs} epochs is not over after {shape.epochs}; "
            "--recipe-set schedule.warmup_epochs=N shortens it"
        )
    return ""


def _precision(request: Request, ranks: Ranks) -> str:
    if request.precision == "auto":
        return request.recipe.precision if ranks.device.type == "cuda" else "fp32"
    if request.precision == "fp16" and ranks.device.type == "cpu":
        raise AttnbenchError("fp16 is for CUDA devices; on a CPU give --precision fp32 or bf16")
    return request.precision


def _workers(request: Request, ranks: Ranks) -> int:
    if request.workers >= 0:
        return request.workers
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(0, min(8, (os.cpu_count() or 1) // here - 1))
