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
@click.option(
    "--recipes",
    "chosen",
    type=_types.Word(),
    metavar="A,B",
    help="Recipes to compare; none for not.  [default: those of the models' names]",
)
@plugin_option
def command(a: str, b: str, form: str, resolution: int, chosen: str | None) -> None:
    """List everything in which the models A and B differ, and in which their training does.

    A model is a configuration (biformer_stl), LAYOUT/MECHANISM (swin_t/bra), a reference (timm_swin) or
    timm/MODEL. The differences are derived by comparing modules and parameters; those of parameters and of
    MACs add up to the whole gap between the models. Where both have a recipe of their name, what they were
    trained with is listed too: an accuracy is of model and recipe together.
    """
    from attnbench.harness.ledger import lines, recipe_lines

    of_training, recipes = recipe_lines.of(a, b, chosen or "")
    rows, totals = lines.of(a, b, resolution)
    rows += of_training
    if form == "json":
        found = {"a": a, "b": b, "recipes": recipes, **totals, "rows": [vars(row) for row in rows]}
        click.echo(json.dumps(found, indent=2))
    else:
        click.echo(lines.render(rows, totals, (a, b), form), nl=False)
