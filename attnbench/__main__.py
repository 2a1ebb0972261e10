"""The command line; each command is a file of ``attnbench/commands``.

torch takes seconds to import, so it is imported inside the commands that compute, after their arguments
have been checked. Mistakes of the user end with one line and status 2.
"""

import sys
from typing import NoReturn

import click

from attnbench import __version__
from attnbench.commands import Commands
from attnbench.errors import AttnbenchError


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="attnbench")
def cli() -> None:
    """Benchmark attention mechanisms of vision transformers.

    'attnbench run' with no argument measures every mechanism on this machine and prints the table.
    """


def main(arguments: list[str] | None = None) -> NoReturn:
    """Entry point: run the command, and turn a user's mistake into one line and status 2."""
    try:
        code = cli.main(args=arguments, prog_name="attnbench", standalone_mode=False)
    except AttnbenchError as error:
        code = _complain(str(error))
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        code = 0
    except click.ClickException as error:
        code = _complain(error.format_message())
    except (click.Abort, KeyboardInterrupt):
        click.echo("attnbench: interrupted; finished cells are kept, the same command goes on", err=True)
        code = 130
    sys.exit(code if isinstance(code, int) else 0)


def _complain(message: str) -> int:
    click.echo(f"attnbench: error: {' '.join(message.split())}", err=True)
    return 2


if __name__ == "__main__":
    main()
