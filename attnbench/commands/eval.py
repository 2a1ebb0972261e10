"""``attnbench eval``: accuracy of weights on a test split."""

from typing import Any

import click

from attnbench import recipes
from attnbench.commands import _dense, _types
from attnbench.commands._arguments import before_torch, plugin_option, settings_option
from attnbench.commands._training import Change, Data
from attnbench.configurations import find

_CROPS = _types.Names("crop", ("authors", "timm"))
_FILE = _types.Existing("file")


@click.command()
@click.option("--checkpoint", type=_FILE, required=True, help="Of 'attnbench train', or released weights.")
@click.option("--data", type=Data(), required=True, metavar="D", help="NAME, NAME:PATH, or a path of images.")
@click.option("--model", type=_types.Word(), help="Of released weights: biformer_s, <layout>_<mechanism>.")
@settings_option
@click.option("--key-map", type=_types.Word(), help="Whose names they have.  [default: found out]")
@click.option("--part", type=_types.Word(), help="model or model_ema.  [default: what the file has]")
@click.option("--recipe", type=_types.Word(), help="Whose crop.  [default: the checkpoint's, else swin_t]")
@click.option("--crops", type=_CROPS, default="authors,timm", show_default=True, help="One or both.")
@click.option("--resolution", type=_types.RESOLUTION, help="[default: the checkpoint's, else 224]")
@click.option("--batch-size", type=_types.BATCH, default=64, show_default=True)
@click.option("--workers", type=_types.Whole(0, 256), default=0, show_default=True)
@click.option("--device", type=_types.Device(), default="auto", show_default=True, help="cpu, cuda or auto.")
@click.option("--max-bad-images", type=_types.Whole(0, 2**31), help="[default: 10, or one in 1000]")
@click.option("--task", type=_dense.TASK, default="classification", show_default=True)
@click.option(
    "--recipe-set", "changes", type=Change(), multiple=True, metavar="KEY=VALUE", help="Other tasks."
)
@_dense.data_option
@click.option("--download", is_flag=True, help="Fetch the data set, where that can be done.")
@plugin_option
def command(**given: Any) -> None:
    """Score weights on the test split of D, each image counted once.

    A checkpoint of 'attnbench train' says itself what model it is of, and holds raw weights and their running
    mean; both are scored. Released weights need --model. Images are cropped as the recipe's authors do, and
    as timm does for Swin (the short side to 248, then 224). Under torchrun the images are shared out.

    With --task semantic or detection it is the mIoU or AP of a dense model, tested as its recipe says or, by
    --recipe-set test.scales, test.flip or test.mode, in another way.
    """
    if given["task"] != "classification":
        _dense.score(given)
        return
    asked = read(given)
    before_torch()
    from attnbench.harness.training import checkpoint_scores
    from attnbench.harness.training.ranks import joined
    from attnbench.progress import make_progress

    with joined(given["device"]) as ranks:
        lines = checkpoint_scores.run(checkpoint_scores.Request(**asked), ranks, make_progress().say)
        if ranks.first:
            click.echo("\n".join(lines))


def read(given: dict[str, Any]) -> dict[str, Any]:
    """The fields of a request, checked without torch.

    Raises:
        AttnbenchError: the model or the recipe is unknown.
    """
    data, root = given["data"]
    same = ("checkpoint", "batch_size", "workers", "download", "crops")
    maybe = ("resolution", "max_bad_images", "key_map", "part")
    return {
        **{name: given[name] for name in same},
        **{name: given[name] for name in maybe if given[name] is not None},
        "data": data,
        "root": root,
        "model": find(given["model"]) if given["model"] else None,
        "options": given["settings"],
        "recipe": recipes.get(given["recipe"]) if given["recipe"] else None,
    }
