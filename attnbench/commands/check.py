"""``attnbench check``: the conformance suite and golden tensors."""

import sys
from pathlib import Path

import click

from attnbench.commands._arguments import DEFAULT_OUT, plugin_option


@click.command()
@click.argument("mechanisms", nargs=-1, metavar="[NAME|FILE.py]...")
@click.option("--all", "every", is_flag=True, help="Check every mechanism.")
@click.option("--only", default="", metavar="A,B", help="Names of checks; no certificate is written.")
@click.option("--out", default=DEFAULT_OUT, show_default=True, metavar="DIR", help="Certificates go there.")
@click.option("--impl", default="", metavar="A,B", help="Compare these too: compiled, which takes a minute.")
@click.option("--golden", default="", metavar="DIR", help="Compare with a golden folder instead.")
@plugin_option
def command(mechanisms: tuple[str, ...], every: bool, only: str, out: str, impl: str, golden: str) -> None:
    """Check that mechanisms hold the conformance suite, and write a certificate for each.

    Prints a line per check; exits with status 1 if one fails. With --golden: compares the mechanisms
    (by default all) with the golden tensors of a folder, prints a line per case and "N of M equal", and
    exits with status 1 unless all are.
    """
    from attnbench.harness.conformance import command

    if golden:
        passed = command.golden(Path(golden), mechanisms, click.echo)
    else:
        checks = [name.strip() for name in only.split(",") if name.strip()]
        impls = [name.strip() for name in impl.split(",") if name.strip()]
        passed = command.conformance(mechanisms, every, checks, Path(out), click.echo, impls)
    if not passed:
        sys.exit(1)
