"""``attnbench train --task semantic|detection`` and the test of its checkpoints."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attnbench import dense_recipes
from attnbench.commands import _types
from attnbench.commands._arguments import before_torch
from attnbench.errors import AttnbenchError

if TYPE_CHECKING:
    from attnbench.harness.training.loop import Result

TASK = _types.OneOf("task", "classification", "semantic", "detection")
data_option = click.option(
    "--data-option",
    "data_options",
    type=_types.Setting(),
    multiple=True,
    metavar="KEY=VALUE",
    help="Of a data set, of other tasks.",
)
_OF_CLASSIFICATION = ("resolution", "max_bad_images", "token_labels", "download")


def train(given: dict[str, Any]) -> "Result | None":
    """Train a dense model as ``attnbench train`` was told to; the result on the first rank."""
    asked, device = read(given), given["device"]
    before_torch()
    from attnbench.harness.dense import dense_session
    from attnbench.harness.training.ranks import joined
    from attnbench.progress import QuietProgress, make_progress

    request = dense_session.DenseRequest(**asked)
    with joined(device) as ranks:
        if not ranks.first:
            dense_session.train(request, ranks, QuietProgress())
            return None
        with make_progress() as progress:
            return dense_session.train(request, ranks, progress)


def read(given: dict[str, Any]) -> dict[str, Any]:
    """The fields of a request, checked without torch.

    Raises:
        AttnbenchError: a name is unknown, or an option is not of this task.
    """
    for name in _OF_CLASSIFICATION:
        if given[name]:
            raise AttnbenchError(f"--{name.replace('_', '-')} is of --task classification")
    changes = dict(given["changes"])
    for name, key in (("epochs", "schedule.epochs"), ("global_batch", "global_batch")):
        if given[name] is not None:
            changes[key] = given[name]
    recipe = dense_recipes.get(given["recipe"])
    if recipe.task != given["task"]:
        known = ", ".join(dense_recipes.names(given["task"]))
        raise AttnbenchError(
            f"recipe {recipe.name} is of --task {recipe.task}; of {given['task']} are {known}"
        )
    recipe = recipe.changed(changes) if changes else recipe
    data, root = given["data"]
    if not data:
        raise AttnbenchError(f"--task {given['task']} needs a data set, NAME or NAME:FOLDER, got {root}")
    words = (given["layout"], given["mechanism"], data, recipe.name, recipe.digest()[:6], given["seed"])
    out = given["out"] or f"attnbench-results/train/{'-'.join(map(str, words))}"
    same = ("layout", "mechanism", "impl", "seed", "precision", "evaluate_every")
    maybe = ("device_batch", "workers", "checkpoint_every")
    return {
        **{name: given[name] for name in same},
        **{name: given[name] for name in maybe if given[name] is not None},
        "recipe": recipe,
        "changes": changes,
        "data": data,
        "root": root,
        "data_options": dict(given["data_options"]),
        "out": Path(out),
        "options": given["settings"],
        "weights": str(given["weights"] or ""),
    }


def score(given: dict[str, Any]) -> None:
    """Test a checkpoint of a dense model as ``attnbench eval`` was told to, and say the scores."""
    before_torch()
    from attnbench.harness.dense import dense_scoring
    from attnbench.harness.training.ranks import joined

    name, root = given["data"]
    options, changes = dict(given["data_options"]), dict(given["changes"])
    with joined(given["device"]) as ranks:
        found = dense_scoring.score(given["checkpoint"], name, root, options, changes, ranks)
        if ranks.first:
            click.echo("\n".join(f"{key} {value:.2f} %" for key, value in found.items()))
