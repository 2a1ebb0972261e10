"""``attnbench report``: records as one HTML file that opens anywhere."""

from pathlib import Path

import click

from attnbench.commands import _types
from attnbench.commands._arguments import DEFAULT_OUT, plugin_option, warn, write


@click.command()
@click.option(
    "--records",
    type=_types.Existing(),
    metavar="DIR",
    help=f"Folder or file of records.  [default: {DEFAULT_OUT}/records]",
)
@click.option(
    "--output",
    "-o",
    type=_types.OutputFile(),
    default="report.html",
    show_default=True,
    metavar="FILE",
    help="Write there.",
)
@click.option("--layout", type=_types.Word(), help="Layout to show.  [default: the one with most rows]")
@click.option(
    "--resolution", type=_types.RESOLUTION, metavar="N", help="Pixels.  [default: the newest record's]"
)
@click.option(
    "--device", type=_types.Device(auto=False), help="Device to show.  [default: the newest record's]"
)
@plugin_option
def command(
    records: Path | None, output: Path, layout: str | None, resolution: int | None, device: str | None
) -> None:
    """Write a report of what was measured: the table, charts, and where every number comes from.

    One file of about a megabyte, which opens without a network. Needs attnbench[report].
    """
    from attnbench import certificates, store
    from attnbench.report.page import page
    from attnbench.tables.points import fullest_layout

    folder = records or Path(f"{DEFAULT_OUT}/records")
    certificates.look_beside(folder)
    found = store.read(folder, warn)
    text = page(found, layout=layout or fullest_layout(found), resolution=resolution, device=device)
    write(output, text)
    click.echo(f"{output}: {len(text.encode()) / 2**20:.1f} MiB, {len(found)} records")
