"""What a training run leaves in the store: last and best accuracy, of raw weights and of their mean."""

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from attnbench import store
from attnbench.harness import environment
from attnbench.harness.data._images import ImageSource
from attnbench.harness.models.backbone import Backbone, executed_impl
from attnbench.harness.training import loop
from attnbench.harness.training.classification import Classification
from attnbench.harness.training.data_paths import called
from attnbench.harness.training.journal import LOG, read_rows
from attnbench.record import Cell, Measurement

if TYPE_CHECKING:
    from attnbench.harness.training.runs import Request

METRIC = "training"


def of(
    request: "Request", run: loop.Run, result: loop.Result, splits: tuple[ImageSource, ImageSource]
) -> list[Measurement]:
    """One measurement a score; its details say recipe, data, epochs, images and the rate that was used."""
    facts = environment.describe(run.ranks.device) | environment.state()
    ran, details = executed_impl(cast(Backbone, run.model)), _details(request, run, result, splits)
    return [
        Measurement.of(
            _cell(request, run), name, value, "%", implementation=ran, details=details, environment=facts
        )
        for name, value in _values(result)
    ]


def append_once(path: Path, found: list[Measurement]) -> None:
    """Append records unless those of the same run are there: a finished run may be asked for again.

    Raises:
        AttnbenchError: the file cannot be written.
    """
    known = set()
    if path.exists():
        known = {(m.key, m.name, m.value) for m in store.read_lines(path, Measurement, lambda line: None)}
    store.append(path, [m for m in found if (m.key, m.name, m.value) not in known])


def _values(result: loop.Result) -> Iterator[tuple[str, float]]:
    """Scores of the last epoch, then the best epoch's, each of which may be another epoch."""
    scores = [name for name in result.last if name not in ("epoch", "loss")]
    for name in scores:
        yield name, result.last[name]
    for name in scores:
        yield f"{name}_best", result.best(name)[name]


def _cell(request: "Request", run: loop.Run) -> Cell:
    known: dict[str, Any] = {
        "mechanism": request.mechanism,
        "layout": request.layout,
        "metric": METRIC,
        "mode": "train",
        "precision": run.precision,
        "resolution": request.size,
        "batch_size": run.plan.global_batch,
        "impl": request.impl,
        "options": dict(request.options),
        "seed": request.seed,
        "device": run.ranks.device.type,
        "machine": environment.machine(run.ranks.device),
        "source": run.identity["source"],
        "layout_digest": run.identity["layout_digest"],
        "recipe": request.recipe.digest(),
        "torch": torch.__version__,
        "dataset": called(request.data, request.root),
        "dataset_digest": run.identity["data"].replace(" ", ""),
    }
    return Cell(**{key: value for key, value in known.items() if key in Cell.model_fields})


def _details(
    request: "Request", run: loop.Run, result: loop.Result, splits: tuple[ImageSource, ImageSource]
) -> dict[str, Any]:
    recipe, plan, damage = request.recipe, run.plan, cast(Classification, run.task).damage
    rows = read_rows(run.folder / LOG)
    evaluated = len(splits[1])
    return {
        "recipe": recipe.name,
        "recipe_changes": dict(request.changes),
        "recipe_settings": recipe.flat(),
        "oddities": list(recipe.oddities),
        "data": called(request.data, request.root),
        "classes": len(splits[0].classes),
        "train_images": len(splits[0]),
        "test_images": evaluated,
        "epochs": plan.epochs,
        "images_seen": plan.updates * plan.global_batch,
        "updates": plan.updates,
        "global_batch": plan.global_batch,
        "micro_batch": plan.micro_batch,
        "ranks": run.ranks.world,
        "peak_lr": recipe.optimizer.rates(recipe.global_batch)[1],
        "authors_report": f"{recipe.evaluation.weights} weights, {recipe.evaluation.select} epoch",
        "last_epoch": int(result.last["epoch"]),
        "best_epoch": int(result.best()["epoch"]),
        "images_per_s": statistics.median(float(row["images_per_s"]) for row in rows) if rows else None,
        "undecodable_images": sorted(damage.names),
        "history": result.history,
    }
