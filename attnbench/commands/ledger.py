"""``attnbench ledger``: all that two models differ in, besides the attention."""

import json

import click

from attnbench.commands import _types
from attnbench.commands._arguments import plugin_option


@click.command()
@click.argument("a", type=_types.Word())
@click.argument("b", type=_types.Word())
@click.option(
    "--format", "form", type=_types.OneOf("format", "md", "csv", "json"), default="md", show_default=True
)
@click.option(
    "--resolution",
    type=_types.RESOLUTION,
    default=224,
    show_default=True,
    metavar="N",
    help="Pixels a side, for MACs.",
)
@plugin_option
def command(a: str, b: str, form: str, resolution: int) -> None:
    """List everything in which the models A and B differ.

    A model is a configuration (biformer_stl), LAYOUT/MECHANISM (swin_t/bra), a reference (timm_swin) or
    timm/MODEL. The differences are derived by comparing modules and parameters; those of parameters and of
    MACs add up to the whole gap between the models.
    """
    from attnbench.harness.ledger import lines

    rows, totals = lines.of(a, b, resolution)
    if form == "json":
        click.echo(json.dumps({"a": a, "b": b, **totals, "rows": [vars(row) for row in rows]}, indent=2))
    else:
        click.echo(lines.render(rows, totals, (a, b), form), nl=False)
