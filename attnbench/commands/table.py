"""``attnbench table``: records as a table."""

from pathlib import Path

import click

from attnbench.commands._arguments import DEFAULT_OUT, plugin_option, positive, warn, write
from attnbench.errors import UnknownNameError


@click.command()
@click.argument("name")
@click.option("--records", default=f"{DEFAULT_OUT}/records", show_default=True, metavar="DIR")
@click.option("--format", "form", default="md", show_default=True, help="md, csv, latex or html.")
@click.option("--output", default="", metavar="FILE", help="Write there instead of to the terminal.")
@click.option("--layout", default="", help="Layout to show.  [default: the newest record's]")
@click.option("--resolution", default="", metavar="N", help="Pixels a side.  [default: the newest record's]")
@click.option("--device", default="", help="Device to show.  [default: the newest record's]")
@plugin_option
def command(
    name: str, records: str, form: str, output: str, layout: str, resolution: str, device: str
) -> None:
    """Render records as the table NAME; there is 'ablation' (after BiFormer's Table 5)."""
    if name != "ablation":
        raise UnknownNameError("table", name, ("ablation",))
    size = positive("resolution", resolution, 0)
    rendered = ablation(Path(records), form, layout or None, size or None, device or None)
    if not output:
        click.echo(rendered, nl=False)
        return
    write(Path(output), rendered)


def ablation(records: Path, form: str, layout: str | None, resolution: int | None, device: str | None) -> str:
    """The ablation table of records, rendered; ``None`` for what the newest record has."""
    from attnbench import render, store, tables

    if form not in render.FORMATS:
        raise UnknownNameError("format", form, render.FORMATS)
    found = store.read(records, warn)
    return render.render(tables.ablation(found, layout=layout, resolution=resolution, device=device), form)
