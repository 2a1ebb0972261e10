"""``attnbench new``: a mechanism of one's own, to begin with."""

from pathlib import Path

import click

from attnbench.commands import _types


@click.command()
@click.argument("file", type=_types.OutputFile(), metavar="FILE.py")
def command(file: Path) -> None:
    """Write the skeleton of a mechanism into FILE.py, whose name becomes the mechanism's.

    It is a whole mechanism that passes 'attnbench check': change it piece by piece.
    """
    from attnbench import skeleton

    name = skeleton.write(file)
    click.echo(f"written: {file}, which registers {name}; it works as it is. Next:")
    click.echo(f"  attnbench check {file}     # does it hold the contract?")
    click.echo(f"  attnbench report {file}    # check, count, time, train, and compare, in one page")
