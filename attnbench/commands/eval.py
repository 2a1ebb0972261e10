"""``attnbench eval``: accuracy of weights on a test split."""

from pathlib import Path
from typing import Any

import click

from attnbench import recipes
from attnbench.commands._arguments import before_torch, option, plugin_option
from attnbench.commands._training import data_of
from attnbench.configurations import find
from attnbench.errors import AttnbenchError


@click.command()
@click.option(
    "--checkpoint", required=True, metavar="FILE", help="Of 'attnbench train', or released weights."
)
@click.option("--data", required=True, metavar="D", help="A data set, NAME:PATH, or the path of images.")
@click.option("--model", default="", help="Of released weights: a configuration, or <layout>_<mechanism>.")
@click.option("--set", "settings", multiple=True, metavar="OPTION=VALUE", help="Option of the model.")
@click.option("--key-map", default="", metavar="NAME", help="Whose names they have.  [default: found out]")
@click.option("--part", default="", help="model or model_ema.  [default: what the file has]")
@click.option(
    "--recipe", default="", metavar="R", help="Whose crop.  [default: the checkpoint's, else swin_t]"
)
@click.option("--crops", default="authors,timm", show_default=True, help="authors, timm or both.")
@click.option("--resolution", type=click.IntRange(1, 8192), help="[default: the checkpoint's, else 224]")
@click.option("--batch-size", type=click.IntRange(1, 65536), default=64, show_default=True)
@click.option("--workers", type=click.IntRange(0, 256), default=0, show_default=True)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N or auto.")
@click.option("--max-bad-images", type=click.IntRange(0), help="[default: 10, or one in 1000]")
@click.option("--download", is_flag=True, help="Fetch the data set, where that can be done.")
@plugin_option
def command(**given: Any) -> None:
    """Score weights on the test split of D, each image counted once.

    A checkpoint of 'attnbench train' says itself what model it is of, and holds raw weights and their running
    mean; both are scored. Released weights need --model. Images are cropped as the recipe's authors do, and
    as timm does for Swin (the short side to 248, then 224). Under torchrun the images are shared out.
    """
    asked = read(given)
    before_torch()
    from attnbench.harness.training import scoring
    from attnbench.harness.training.ranks import joined
    from attnbench.progress import make_progress

    with joined(given["device"]) as ranks:
        lines = scoring.run(scoring.Request(**asked), ranks, make_progress().say)
        if ranks.first:
            click.echo("\n".join(lines))


def read(given: dict[str, Any]) -> dict[str, Any]:
    """The fields of a request, checked without torch.

    Raises:
        AttnbenchError: a name is unknown, or a file is not there.
    """
    path = Path(given["checkpoint"]).expanduser()
    if not path.is_file():
        raise AttnbenchError(f"there is no file {path}; give the path of a checkpoint")
    crops = tuple(dict.fromkeys(given["crops"].split(",")))
    if not set(crops) <= {"authors", "timm"}:
        raise AttnbenchError(f"--crops must be authors, timm or authors,timm, got {given['crops']!r}")
    data, root = data_of(given["data"])
    same = ("key_map", "part", "batch_size", "workers", "download")
    maybe = ("resolution", "max_bad_images")
    return {
        **{name: given[name] for name in same},
        **{name: given[name] for name in maybe if given[name] is not None},
        "checkpoint": path,
        "data": data,
        "root": root,
        "crops": crops,
        "model": find(given["model"]) if given["model"] else None,
        "options": dict(option(text) for text in given["settings"]),
        "recipe": recipes.get(given["recipe"]) if given["recipe"] else None,
    }
