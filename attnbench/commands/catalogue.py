"""``attnbench catalogue``: docs/mechanisms.md."""

import sys
from pathlib import Path

import click

from attnbench import registry
from attnbench.commands._arguments import deliver, output_option, plugin_option
from attnbench.errors import AttnbenchError


@click.command()
@output_option
@click.option("--check", "compare", is_flag=True, help="Write nothing; status 1 if FILE is not up to date.")
@plugin_option
def command(output: Path | None, compare: bool) -> None:
    """The catalogue of mechanisms as Markdown, as in docs/mechanisms.md."""
    if compare and output is None:
        raise AttnbenchError("--check needs --output FILE, the file to compare with")
    from attnbench.harness import catalogue

    text = catalogue.render_markdown([catalogue.entry(registry.get(name)) for name in registry.names()])
    if compare and output is not None:
        if not output.is_file() or output.read_text(encoding="utf-8") != text:
            click.echo(f"{output} is stale; run 'attnbench catalogue --output {output}'", err=True)
            sys.exit(1)
        click.echo(f"{output} is up to date")
    else:
        deliver(text, output)
