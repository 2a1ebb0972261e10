"""``attnbench ledger``: all that two models differ in, besides the attention."""

import json

import click

from attnbench.commands._arguments import plugin_option, positive
from attnbench.errors import UnknownNameError

FORMATS = ("md", "csv", "json")


@click.command()
@click.argument("a")
@click.argument("b")
@click.option("--format", "form", default="md", show_default=True, help="md, csv or json.")
@click.option("--resolution", default="224", show_default=True, metavar="N", help="Pixels a side, for MACs.")
@plugin_option
def command(a: str, b: str, form: str, resolution: str) -> None:
    """List everything in which the models A and B differ.

    A model is a configuration (biformer_stl), LAYOUT/MECHANISM (swin_t/bra), a reference (timm_swin) or
    timm/MODEL. The differences are derived by comparing modules and parameters; those of parameters and of
    MACs add up to the whole gap between the models.
    """
    if form not in FORMATS:
        raise UnknownNameError("format", form, FORMATS)
    size = positive("resolution", resolution, 224)
    from attnbench.harness.ledger import lines

    rows, totals = lines.of(a, b, size)
    if form == "json":
        click.echo(json.dumps({"a": a, "b": b, **totals, "rows": [vars(row) for row in rows]}, indent=2))
    else:
        click.echo(lines.render(rows, totals, (a, b), form), nl=False)
