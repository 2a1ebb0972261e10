"""``attnbench merge``: record folders of several machines, joined into one."""

import sys
from pathlib import Path

import click

from attnbench.commands import _types
from attnbench.commands._arguments import plugin_option


@click.command()
@click.argument("folders", nargs=-1, required=True, type=_types.Existing("folder"), metavar="DIR...")
@click.option(
    "--out", type=_types.Folder(), required=True, metavar="DIR", help="New folder for the records of all."
)
@click.option("--outdated", is_flag=True, help="Accept records whose source or certificate is not at hand.")
@plugin_option
def command(folders: tuple[Path, ...], out: Path, outdated: bool) -> None:
    """Join the record folders DIR... into a new one, or refuse them and write nothing.

    A DIR is what 'attnbench run --out' was given. Every record is examined: its seal, its key, the digest of
    its source, its certificate. One that is not what it claims is named with the reason, and the command ends
    with status 1. Of several records of one cell the newest is kept; where they differ, both are told.
    """
    from attnbench import merging

    result = merging.merge(folders, out, outdated=outdated)
    if result.refused:
        for refusal in result.refused:
            click.echo(f"refused: {refusal}", err=True)
        click.echo(f"nothing was written: {len(result.refused)} records are not what they claim", err=True)
        sys.exit(1)
    merging.report(result, out, click.echo)
