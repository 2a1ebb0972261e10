"""``attnbench load``: weights of other implementations."""

from pathlib import Path

import click

from attnbench.commands._arguments import option, plugin_option
from attnbench.configurations import find
from attnbench.errors import AttnbenchError


@click.command()
@click.argument("model")
@click.option("--checkpoint", required=True, metavar="FILE", help="Weights: of torch.save, or .safetensors.")
@click.option("--key-map", default="", metavar="NAME", help="Whose names they have.  [default: found out]")
@click.option("--part", default="", help="Of a file with several, e.g. model_ema.  [default: model]")
@click.option("--set", "settings", multiple=True, metavar="OPTION=VALUE", help="Option of the model.")
@click.option("--output", default="", metavar="FILE", help="Write the weights by our names there.")
@plugin_option
def command(
    model: str, checkpoint: str, key_map: str, part: str, settings: tuple[str, ...], output: str
) -> None:
    """Load weights into MODEL, tell what fitted, and with --output keep them by our names.

    MODEL is a configuration (biformer_s, swin_t) or <layout>_<mechanism> (swin_t_bra). Only tensors are
    read: no code in the file runs.
    """
    layout, mechanism, options = find(model)
    options = {**options, **dict(option(setting) for setting in settings)}
    if not Path(checkpoint).is_file():  # before torch is imported, which takes seconds
        raise AttnbenchError(f"there is no file {checkpoint}; give the path of a checkpoint")
    from attnbench import create_model
    from attnbench.harness.models.checkpoints import load_checkpoint
    from attnbench.harness.models.weights import write_state_dict

    built = create_model(layout, mechanism, **options)
    loaded = load_checkpoint(built, checkpoint, key_map or None, part or None)
    click.echo(f"{layout} with {mechanism}: {loaded}")
    if output:
        write_state_dict(built.state_dict(), output)
        click.echo(f"written: {output}")
