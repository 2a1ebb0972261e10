"""``attnbench merge``: record folders of several machines, joined into one."""

import sys
from pathlib import Path

import click

from attnbench.commands._arguments import plugin_option
from attnbench.errors import AttnbenchError


@click.command()
@click.argument("folders", nargs=-1, metavar="DIR...")
@click.option("--out", default="", metavar="DIR", help="New folder for the records of all.  [required]")
@click.option("--outdated", is_flag=True, help="Accept records whose source or certificate is not at hand.")
@plugin_option
def command(folders: tuple[str, ...], out: str, outdated: bool) -> None:
    """Join the record folders DIR... into a new one, or refuse them and write nothing.

    A DIR is what 'attnbench run --out' was given. Every record is examined: its seal, its key, the digest of
    its source, its certificate. One that is not what it claims is named with the reason, and the command ends
    with status 1. Of several records of one cell the newest is kept; where they differ, both are told.
    """
    if not folders:
        raise AttnbenchError("nothing to merge; give record folders: attnbench merge DIR... --out DIR")
    if not out:
        raise AttnbenchError("merge needs --out DIR, a folder that is empty or does not exist yet")
    from attnbench import merging

    result = merging.merge([Path(folder) for folder in folders], Path(out), outdated=outdated)
    if result.refused:
        for refusal in result.refused:
            click.echo(f"refused: {refusal}", err=True)
        click.echo(f"nothing was written: {len(result.refused)} records are not what they claim", err=True)
        sys.exit(1)
    merging.report(result, Path(out), click.echo)
