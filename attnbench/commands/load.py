"""``attnbench load``: weights of other implementations."""

from pathlib import Path
from typing import Any

import click

from attnbench.commands import _types
from attnbench.commands._arguments import plugin_option, settings_option
from attnbench.configurations import find


@click.command()
@click.argument("model", type=_types.Word())
@click.option(
    "--checkpoint",
    type=_types.Existing("file"),
    required=True,
    metavar="FILE",
    help="Weights: of torch.save, or .safetensors.",
)
@click.option(
    "--key-map", type=_types.Word(), metavar="NAME", help="Whose names they have.  [default: found out]"
)
@click.option("--part", type=_types.Word(), help="Of a file with several, e.g. model_ema.  [default: model]")
@settings_option
@click.option(
    "--output", type=_types.OutputFile(), metavar="FILE", help="Write the weights by our names there."
)
@plugin_option
def command(
    model: str,
    checkpoint: Path,
    key_map: str | None,
    part: str | None,
    settings: dict[str, Any],
    output: Path | None,
) -> None:
    """Load weights into MODEL, tell what fitted, and with --output keep them by our names.

    MODEL is a configuration (biformer_s, swin_t) or <layout>_<mechanism> (swin_t_bra). Only tensors are
    read: no code in the file runs.
    """
    layout, mechanism, options = find(model)
    from attnbench import create_model
    from attnbench.harness.models.checkpoints import load_checkpoint
    from attnbench.harness.models.weights import write_state_dict

    built = create_model(layout, mechanism, **{**options, **settings})
    loaded = load_checkpoint(built, checkpoint, key_map, part)
    click.echo(f"{layout} with {mechanism}: {loaded}")
    if output:
        write_state_dict(built.state_dict(), output)
        click.echo(f"written: {output}")
