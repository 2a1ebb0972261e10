"""``attnbench report``: records as one HTML file that opens anywhere."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from attnbench.commands import _types
from attnbench.commands._arguments import (
    DEFAULT_OUT,
    plugin_option,
    records_option,
    shown_options,
    warn,
    write,
)
from attnbench.errors import AttnbenchError

if TYPE_CHECKING:
    from attnbench.report.sections import Extra


@click.command()
@click.argument("file", required=False, type=_types.Existing("file"), metavar="[FILE.py]")
@records_option
@click.option(
    "--output",
    "-o",
    type=_types.OutputFile(),
    default="report.html",
    show_default=True,
    metavar="FILE",
    help="Write there.",
)
@shown_options
@click.option(
    "--out",
    type=_types.Folder(),
    default=DEFAULT_OUT,
    show_default=True,
    metavar="DIR",
    help="With FILE.py: where its records are kept.",
)
@click.option("--tokens", type=_types.MECHANISMS, metavar="A,B", help="Show what each token of these reads.")
@plugin_option
def command(
    file: Path | None,
    records: Path | None,
    output: Path,
    layout: str | None,
    resolution: int | None,
    device: str | None,
    out: Path,
    tokens: tuple[str, ...] | None,
) -> None:
    """Write a report of what was measured: the table, charts, and where every number comes from.

    One file of about a megabyte, which opens without a network. Needs attnbench[report].

    With FILE.py, the file of a mechanism of yours: check it, count, measure it beside the baseline, train it,
    and report it among the shipped records of all others (docs/own_mechanism.md).
    """
    if file is not None:
        from attnbench.commands import _own

        if records or layout or resolution or tokens:
            raise AttnbenchError(
                "--records, --layout, --resolution and --tokens are of reports without a FILE.py"
            )
        return _own.report(file, out, output, device or "auto")
    from attnbench import certificates, store
    from attnbench.report.page import page
    from attnbench.tables.points import fullest_layout

    folder = records or Path(f"{DEFAULT_OUT}/records")
    certificates.look_beside(folder)
    found = store.read(folder, warn)
    shown = layout or fullest_layout(found)
    extras = _tokens(tokens, shown) if tokens and shown else []
    text = page(found, layout=shown, resolution=resolution, device=device, extras=extras)
    write(output, text)
    click.echo(f"{output}: {len(text.encode()) / 2**20:.1f} MiB, {len(found)} records")


def _tokens(mechanisms: tuple[str, ...], layout: str) -> "list[Extra]":
    """Token explorers, for which the models are built and run."""
    from attnbench.commands import _own

    return [_own.tokens_part(name, layout) for name in mechanisms]
