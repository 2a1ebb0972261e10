"""``attnbench train``: train a model by a recipe, from where the same command stopped."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attnbench.commands import _dense, _types
from attnbench.commands._arguments import before_torch, plugin_option, settings_option
from attnbench.commands._training import PRECISION, Change, Data, folder_name, recipe_of
from attnbench.errors import AttnbenchError

if TYPE_CHECKING:
    from attnbench.harness.training.loop import Result

_COUNT = _types.Whole(1, 2**31)


@click.command()
@click.option("--task", type=_dense.TASK, default="classification", show_default=True)
@click.option("--layout", type=_types.LAYOUT, required=True, help="Layout the mechanism is dropped into.")
@click.option("--mechanism", type=_types.MECHANISM, required=True, help="What attends.")
@click.option("--data", type=Data(), required=True, metavar="D", help="NAME, NAME:PATH, or a path of images.")
@click.option(
    "--recipe", type=_types.Word(), required=True, metavar="R", help="Name of a recipe, or a .toml."
)
@click.option("--out", type=_types.Folder(), metavar="DIR", help="[default: attnbench-results/train/...]")
@click.option("--seed", type=_types.SEED, default=0, show_default=True, help="Of all that is random.")
@click.option("--epochs", type=_COUNT, help="In place of the recipe's.")
@click.option("--global-batch", type=_COUNT, help="Images an update, in place of the recipe's.")
@click.option("--recipe-set", "changes", type=Change(), multiple=True, metavar="KEY=VALUE", help="Change it.")
@click.option("--device-batch", type=_COUNT, help="Most images at once.  [default: the recipe's]")
@click.option("--resolution", type=_types.RESOLUTION, help="Pixels a side.  [default: the recipe's]")
@click.option("--impl", type=_types.IMPL, default="auto", show_default=True, help="Of the mechanism.")
@settings_option
@click.option("--precision", type=PRECISION, default="auto", show_default=True)
@click.option("--device", type=_types.Device(), default="auto", show_default=True, help="cpu, cuda or auto.")
@click.option("--workers", type=_types.Whole(0, 256), help="Loaders.  [default: by cores]")
@click.option("--checkpoint-every", type=_COUNT, help="Updates, besides after each epoch.")
@click.option("--evaluate-every", type=_COUNT, default=1, show_default=True, help="Epochs.")
@click.option("--max-bad-images", type=_types.Whole(0, 2**31), help="[default: 10, or one in 1000]")
@click.option("--token-labels", type=_types.Existing("folder"), metavar="DIR", help="For token labelling.")
@click.option("--download", is_flag=True, help="Fetch the data set, where that can be done.")
@_dense.data_option
@click.option("--weights", type=_types.Existing("file"), metavar="FILE", help="Backbone's, of other tasks.")
@plugin_option
def command(**given: Any) -> None:
    """Train a model by a recipe and score it after every epoch.

    The same command goes on from the last checkpoint in --out and ends with the same weights as if it had
    never stopped. Under torchrun it trains on all its processes. D is a data set that attnbench knows
    (digits), one with its place (imagenet:/data/imagenet), or the path of any folder of images, tar shards
    or parquet files.

    With --task semantic or detection the backbone gets the recipe's head (docs/dense.md), and D is scenes,
    ade20k:FOLDER or coco:FOLDER.
    """
    if given["task"] != "classification":
        result = _dense.train(given)
        if result is not None:
            click.echo(told(result, Path(_dense.read(given)["out"])))
        return
    asked, device = read(given), given["device"]
    before_torch()
    from attnbench.harness.training import runs
    from attnbench.harness.training.ranks import joined
    from attnbench.progress import QuietProgress, make_progress

    request = runs.Request(**asked)
    with joined(device) as ranks:
        if not ranks.first:
            runs.train(request, ranks, QuietProgress())
            return
        with make_progress() as progress:
            result = runs.train(request, ranks, progress)
        click.echo(told(result, request.out))


def read(given: dict[str, Any]) -> dict[str, Any]:
    """The fields of a request, checked without torch.

    Raises:
        AttnbenchError: a name is unknown, or a value is none.
    """
    shorthand = {"schedule.epochs": given["epochs"], "global_batch": given["global_batch"]}
    pairs = [*given["changes"], *((key, value) for key, value in shorthand.items() if value is not None)]
    changes = dict(pairs)
    if len(changes) < len(pairs):
        twice = next(key for key, _ in pairs if sum(key == other for other, _ in pairs) > 1)
        raise AttnbenchError(
            f"the recipe's {twice} is given twice (--epochs and --global-batch set one each)"
        )
    recipe = recipe_of(given["recipe"], changes)
    data, root = given["data"]
    called = data or Path(root).expanduser().resolve().name
    out = given["out"] or folder_name(given["layout"], given["mechanism"], called, recipe, given["seed"])
    same = ("layout", "mechanism", "impl", "seed", "precision", "evaluate_every", "download")
    maybe = ("resolution", "device_batch", "workers", "max_bad_images", "checkpoint_every")
    return {
        **{name: given[name] for name in same},
        **{name: given[name] for name in maybe if given[name] is not None},
        "recipe": recipe,
        "changes": changes,
        "data": data,
        "root": root,
        "out": Path(out),
        "options": given["settings"],
        "token_labels": str(given["token_labels"] or ""),
    }


def told(result: "Result", out: Path) -> str:
    """How a run ended: the last epoch, which is the headline, then the best."""
    if not result.history:
        return f"stopped after {result.updates} updates; the same command goes on: {out}"
    lines = []
    for name, row in (("last", result.last), ("best", result.best())):
        scores = ", ".join(f"{k} {v:.2f} %" for k, v in row.items() if k not in ("epoch", "loss"))
        lines.append(f"{name} epoch ({int(row['epoch']) + 1}): {scores}")
    return "\n".join([*lines, f"checkpoints, log.csv, steps.csv and records: {out}"])
