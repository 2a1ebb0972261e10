"""From what ``attnbench train --task semantic|detection`` was asked for to the loop, and to records."""

import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attnbench import datasets, store
from attnbench.dense_recipes import DenseRecipe
from attnbench.errors import AttnbenchError
from attnbench.harness import environment
from attnbench.harness.dense.coding import library
from attnbench.harness.dense.dense_model import DenseModel, backbone_of, create_dense_model
from attnbench.harness.dense.optimising import DenseSchedule, make_optimizer
from attnbench.harness.dense.samples import DenseDataset
from attnbench.harness.dense.tasks import make_task
from attnbench.harness.models.backbone import executed_impl
from attnbench.harness.training import loop, runs
from attnbench.harness.training.order import Plan, make_plan
from attnbench.harness.training.randomness import seed_of
from attnbench.harness.training.ranks import Ranks
from attnbench.harness.training.records import append_once
from attnbench.heads import DRAWN, differences
from attnbench.record import Cell, Measurement
from attnbench.registry import get


@dataclass(frozen=True)
class DenseRequest:
    """What was asked for; see the help of ``attnbench train`` for the meaning of each field.

    ``recipe`` has the changes that were asked for; ``changes`` says which. ``weights`` are the backbone's.
    """

    layout: str
    mechanism: str
    recipe: DenseRecipe
    out: Path
    data: str
    root: str = ""
    data_options: Mapping[str, Any] = field(default_factory=dict)
    changes: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    impl: str = "auto"
    seed: int = 0
    precision: str = "auto"
    device_batch: int = 0
    workers: int = -1
    checkpoint_every: int = 0
    evaluate_every: int = 1
    weights: str = ""
    stop_after: int = 0

    @property
    def backbone_options(self) -> dict[str, Any]:
        """Options of the mechanism: the recipe's, and over them those asked for."""
        return {**self.recipe.options.get(self.mechanism, {}), **self.options}


def train(request: DenseRequest, ranks: Ranks, progress: runs.Progress) -> loop.Result:
    """Train, going on from what ``request.out`` holds, and append the records of what came out.

    Raises:
        AttnbenchError: data, model, recipe and ranks do not fit each other; or see :func:`loop.train`.
    """
    if ranks.first:
        store.check_writable(request.out)
        progress.say(describe(request, ranks))
    run = prepare(request, ranks, progress)
    try:
        result = loop.train(run)
    except torch.OutOfMemoryError as error:
        raise AttnbenchError(
            f"{run.plan.micro_batch} images at once do not fit the device's memory; give --device-batch "
            f"{max(1, run.plan.micro_batch // 2)}: the global batch of {run.plan.global_batch} stays"
        ) from error
    if ranks.first and result.updates == run.plan.updates:
        append_once(request.out / "records" / "train.jsonl", records(request, run, result))
    return result


def prepare(request: DenseRequest, ranks: Ranks, progress: runs.Progress) -> loop.Run:
    """The run of the loop that a request means.

    Raises:
        AttnbenchError: data, model, recipe and ranks do not fit each other.
    """
    recipe = request.recipe
    data = open_data(request.data, request.root, request.data_options, recipe.task)
    model: nn.Module = build(request, data)
    if ranks.world > 1 and ranks.device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model.to(ranks.device)
    plan, period = plan_of(request, ranks, len(data.ids("train")))
    optimizer = make_optimizer(model, recipe)
    asked: Any = request  # has the fields that these two read
    precision = runs._precision(asked, ranks)
    return loop.Run(
        model,
        make_task(recipe, data, request.seed, period),
        optimizer,
        DenseSchedule(optimizer, recipe, plan.updates, plan.steps),
        plan,
        request.out,
        identity=identity(request, plan, precision),
        ranks=ranks,
        clip_grad=recipe.optimizer.clip_grad,
        precision=precision,
        workers=runs._workers(asked, ranks),
        every=request.checkpoint_every,
        evaluate_every=request.evaluate_every,
        stop_after=request.stop_after,
        progress=progress,
    )


def plan_of(request: DenseRequest, ranks: Ranks, images: int) -> tuple[Plan, int]:
    """The plan, and how many updates one of its epochs is where the recipe counts updates (else 0).

    Raises:
        AttnbenchError: the updates between tests do not divide the recipe's, or the batch does not fit.
    """
    recipe, shape = request.recipe, request.recipe.schedule
    period = recipe.test.every or shape.iterations if shape.iterations else 0
    if period and shape.iterations % period:
        raise AttnbenchError(
            f"test.every must divide schedule.iterations, got {period} and {shape.iterations}"
        )
    samples, epochs = (period * recipe.global_batch, shape.iterations // period) if period else (images, 0)
    batch = request.device_batch or recipe.global_batch
    plan = make_plan(samples, epochs or shape.epochs, recipe.global_batch, batch, ranks.world, request.seed)
    return plan, period


def open_data(name: str, root: str, options: Mapping[str, Any], task: str) -> DenseDataset:
    """A data set for a task.

    Raises:
        AttnbenchError: there is none of that name, it is not for the task, or it cannot be opened.
    """
    spec = datasets.get(name)
    loader = spec.load()
    takes = inspect.signature(loader).parameters
    given = dict(options)
    if "root" in takes:
        if not root:
            raise AttnbenchError(f"data set {name} lies on disk; give --data {name}:FOLDER")
        given["root"] = root
    unknown = [key for key in given if key not in takes]
    if unknown:
        raise AttnbenchError(f"data set {name} has no option {unknown[0]!r}; it has {', '.join(takes)}")
    data: DenseDataset = loader(**given)
    if not (data.classes.stuff if task == "semantic" else data.classes.things):
        what = "labels of pixels" if task == "semantic" else "boxes"
        raise AttnbenchError(f"data set {name} has no {what}, which --task {task} needs")
    if task == "detection":
        library()  # before the first hour, not after it
    return data


def build(request: DenseRequest, data: DenseDataset) -> DenseModel:
    """The model, its weights drawn from the seed, the backbone's perhaps loaded.

    Raises:
        AttnbenchError: it cannot be built.
    """
    recipe, options = request.recipe, request.backbone_options
    if recipe.drop_path is not None:
        options["drop_path_rate"] = recipe.drop_path
    if recipe.nominal:
        options["img_size"] = recipe.nominal
    classes = data.classes.stuff if recipe.task == "semantic" else data.classes.things
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(request.seed, "model"))
        return create_dense_model(
            recipe.head,
            request.layout,
            request.mechanism,
            len(classes),
            widths=recipe.widths,
            impl=request.impl,
            checkpoint=request.weights or None,
            **options,
        )


def identity(request: DenseRequest, plan: Plan, precision: str) -> dict[str, Any]:
    """What a checkpoint must agree in with the run to be gone on from."""
    return {
        "task": request.recipe.task,
        "recipe": request.recipe.digest(),
        "recipe_settings": request.recipe.model_dump(mode="json"),
        "layout": request.layout,
        "mechanism": request.mechanism,
        "source": get(request.mechanism).digest(),
        "options": request.backbone_options,
        "impl": request.impl,
        "weights": request.weights,
        "data": request.data,
        "data_digest": datasets.get(request.data).digest(),
        "data_options": dict(request.data_options),
        "precision": precision,
        **asdict(plan),
    }


def describe(request: DenseRequest, ranks: Ranks) -> str:
    """What is trained, in a line."""
    recipe = request.recipe
    changed = f" with {', '.join(f'{k}={v}' for k, v in request.changes.items())}" if request.changes else ""
    return (
        f"{recipe.head} on {request.layout} with {request.mechanism}, {request.data}, recipe {recipe.name}"
        f"{changed} ({recipe.digest()}), seed {request.seed}, {ranks.world} x {ranks.device.type}"
    )


def records(request: DenseRequest, run: loop.Run, result: loop.Result) -> list[Measurement]:
    """One measurement a score, of the last test and of the best by the headline."""
    facts = environment.describe(run.ranks.device) | environment.state()
    ran, details = executed_impl(backbone_of(run.model)), _details(request, run, result)
    cell = _cell(request, run)
    scores = [name for name in result.last if name not in ("epoch", "loss")]
    values = [(name, result.last[name]) for name in scores]
    values += [(f"{name}_best", result.best()[name]) for name in scores]
    return [
        Measurement.of(cell, name, value, "%", implementation=ran, details=details, environment=facts)
        for name, value in values
    ]


def _cell(request: DenseRequest, run: loop.Run) -> Cell:
    recipe = request.recipe
    return Cell(
        mechanism=request.mechanism,
        layout=request.layout,
        metric=f"{recipe.head}_training",
        mode="train",
        precision=run.precision,
        resolution=recipe.input.crop or recipe.input.fit[1] or run.task.data.data.size("train", 0)[0],
        batch_size=run.plan.global_batch,
        impl=request.impl,
        options=dict(request.options),
        seed=request.seed,
        device=run.ranks.device.type,
        machine=environment.machine(run.ranks.device),
        source=run.identity["source"],
        layout_digest=backbone_of(run.model).layout.digest(),
        recipe=recipe.digest(),
        dataset=request.data,
        dataset_digest=run.identity["data_digest"],
        torch=torch.__version__,
    )


def _details(request: DenseRequest, run: loop.Run, result: loop.Result) -> dict[str, Any]:
    recipe, plan = request.recipe, run.plan
    return {
        "recipe": recipe.name,
        "recipe_changes": dict(request.changes),
        "recipe_settings": recipe.flat(),
        "oddities": list(recipe.oddities),
        "differences": differences(recipe.head),
        "data": request.data,
        "data_options": dict(request.data_options),
        "backbone_options": request.backbone_options,
        "weights": request.weights or DRAWN,
        "updates": plan.updates,
        "images_seen": plan.updates * plan.global_batch,
        "global_batch": plan.global_batch,
        "micro_batch": plan.micro_batch,
        "ranks": run.ranks.world,
        "peak_lr": recipe.optimizer.lr,
        "scales": list(recipe.test.scales),
        "flip": recipe.test.flip,
        "authors_report": recipe.test.select,
        "history": result.history,
    }
