"""``attnbench check``: the conformance suite and golden tensors."""

import sys
from pathlib import Path
from typing import Any

import click

from attnbench.commands import _types
from attnbench.commands._arguments import DEFAULT_OUT, plugin_option, settings_option
from attnbench.errors import AttnbenchError


@click.command()
@click.argument("mechanisms", nargs=-1, type=_types.Word(), metavar="[NAME|FILE.py]...")
@click.option("--all", "every", is_flag=True, help="Check every mechanism.")
@click.option(
    "--only", type=_types.Words(), metavar="A,B", help="Names of checks; no certificate is written."
)
@click.option(
    "--out",
    type=_types.Folder(),
    default=DEFAULT_OUT,
    show_default=True,
    metavar="DIR",
    help="Certificates go there.",
)
@click.option(
    "--impl", type=_types.IMPLS, metavar="A,B", help="Compare these too: compiled, which takes a minute."
)
@click.option(
    "--golden", type=_types.Existing("folder"), metavar="DIR", help="Compare with a golden folder instead."
)
@settings_option
@plugin_option
def command(
    mechanisms: tuple[str, ...],
    every: bool,
    only: tuple[str, ...] | None,
    out: Path,
    impl: tuple[str, ...] | None,
    settings: dict[str, Any],
    golden: Path | None,
) -> None:
    """Check that mechanisms hold the conformance suite, and write a certificate for each.

    With --set the certificate is of those options, as records of 'attnbench run --set' need it.

    Prints a line per check; exits with status 1 if one fails. With --golden: compares the mechanisms
    (by default all) with the golden tensors of a folder, prints a line per case and "N of M equal", and
    exits with status 1 unless all are.
    """
    if every and mechanisms:
        raise AttnbenchError("give the names of mechanisms, or --all for every one, not both")
    if golden and (only or impl or settings):
        raise AttnbenchError("--golden compares with golden tensors: it takes no --only, --impl or --set")
    from attnbench.harness.conformance import command

    if golden:
        passed = command.golden(golden, mechanisms, click.echo)
    else:
        passed = command.conformance(mechanisms, every, only or (), out, click.echo, impl or (), settings)
    if not passed:
        sys.exit(1)
