"""The command line; each command is a file of ``attnbench/commands``.

torch takes seconds to import, so it is imported inside the commands that compute, after their arguments
have been checked. Mistakes of the user end with one line and status 2; the statuses are listed in
docs/command_line.md.
"""

import errno
import os
import sys
import traceback
from pathlib import Path
from typing import NoReturn

import click

from attnbench import __version__, commands
from attnbench.commands import Commands
from attnbench.errors import AttnbenchError, told
from attnbench.supervision import ENDED, supervised

MISTAKE = 2
INTERRUPTED = 130
BROKEN_PIPE = 141
"""Statuses of a shell for a program that SIGINT and SIGPIPE ended."""
_COMMANDS = Path(commands.__file__).parent


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="attnbench")
def cli() -> None:
    """Benchmark attention mechanisms of vision transformers.

    'attnbench run' with no argument measures every mechanism on this machine and prints the table.
    """


def main(arguments: list[str] | None = None) -> NoReturn:
    """Entry point: run the command, from the shell in a process that is watched (see ``supervision``)."""
    sys.exit(supervised(lambda: status(None)) if arguments is None else status(arguments))


def status(arguments: list[str] | None) -> int:
    """Run a command and say how it ended: whatever goes wrong is one line on stderr, and a status."""
    try:
        code = cli.main(args=arguments, prog_name="attnbench", standalone_mode=False)
        sys.stdout.flush()  # what does not fit on a disk is told now, not when the interpreter has gone
    except AttnbenchError as error:
        return _complain(str(error))
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 0
    except click.ClickException as error:
        return _complain(error.format_message())
    except (click.Abort, KeyboardInterrupt):
        click.echo("attnbench: interrupted; finished cells are kept, the same command goes on", err=True)
        return INTERRUPTED
    except SystemExit as done:
        return _of_exit(done)
    except OSError as error:
        return _of_system(error)
    except Exception as error:
        if os.environ.get("ATTNBENCH_TRACEBACK"):
            raise
        _complain(f"{told(error)} (ATTNBENCH_TRACEBACK=1 shows the traceback)")
        return ENDED
    return code if isinstance(code, int) else 0


def _of_exit(done: SystemExit) -> int:
    """A command's own exit is its status; that of any code which it ran is no end of the command."""
    if type(sys.stdout).__name__.endswith("PacifyFlushWrapper"):  # click has met a pipe that nobody reads
        return BROKEN_PIPE
    *_, frame = traceback.walk_tb(done.__traceback__)
    if Path(frame[0].f_code.co_filename).parent == _COMMANDS and isinstance(done.code, int):
        return done.code
    _complain(f"the command was not finished: {told(done)}")
    return ENDED


def _of_system(error: OSError) -> int:
    """What the system refused: a disk that is full, a reader that has gone away."""
    if isinstance(error, BrokenPipeError) or error.errno == errno.EPIPE:
        _let_go_of_output()
        return BROKEN_PIPE
    where = error.filename or "what was printed"
    if error.errno == errno.ENOSPC and not error.filename:
        _let_go_of_output()
    return _complain(f"cannot write or read {where}: {error.strerror or error}")


def _let_go_of_output() -> None:
    """Send the rest of stdout nowhere, so that closing it does not fail again."""
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115  until the end of the process


def _complain(message: str) -> int:
    click.echo(f"attnbench: error: {' '.join(message.split())}", err=True)
    return MISTAKE


if __name__ == "__main__":
    main()
