"""What the commands share: options that several have, and the writing of what they say."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from attnbench import plugins, registry
from attnbench.commands import _types
from attnbench.errors import AttnbenchError

Command = TypeVar("Command", bound=Callable[..., Any])
DEFAULT_OUT = "attnbench-results"
ALL_FAILED, SOME_FAILED = 1, 3
"""Statuses of a command that measures: of the cells asked for, none or some could be measured."""
_NOT_OPTIONS = ("self", "site", "impl", "layout", "mechanism", "checkpoint", "options")
"""Names that a model is built by, beside the options of its mechanism."""
_BEFORE_TORCH = {
    "KINETO_LOG_LEVEL": "99",  # torch's profiler chats on stderr otherwise
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}


def before_torch() -> None:
    """Set the environment that torch reads when it is imported, where the user has not."""
    for variable, value in _BEFORE_TORCH.items():
        os.environ.setdefault(variable, value)


def plugin_option(command: Command) -> Command:
    """``--plugin FILE``, repeatable, on a command."""

    def load(context: click.Context, parameter: click.Parameter, paths: tuple[str, ...]) -> tuple[str, ...]:
        for path in paths:
            registry.add_plugin(path)
        if paths and context.info_name != "list":  # which lists what is broken, too
            plugins.check(paths)
        return paths

    return click.option(
        "--plugin",
        multiple=True,
        metavar="FILE",
        callback=load,
        expose_value=False,
        is_eager=True,
        help="Python file that registers mechanisms or data sets; may be repeated.",
    )(command)


def settings_option(command: Command) -> Command:
    """``--set OPTION=VALUE``, repeatable, on a command; it takes ``settings``, a dictionary."""

    def collect(context: click.Context, parameter: click.Parameter, pairs: tuple[Any, ...]) -> dict[str, Any]:
        settings = dict(pairs)
        if wrong := next((name for name in settings if name in _NOT_OPTIONS), None):
            raise click.BadParameter(f"{wrong} is no option of a mechanism", context, parameter)
        if len(settings) < len(pairs):
            twice = next(name for name, _ in pairs if sum(name == other for other, _ in pairs) > 1)
            raise click.BadParameter(f"{twice} is given twice", context, parameter)
        return settings

    return click.option(
        "--set",
        "settings",
        multiple=True,
        type=_types.Setting(),
        metavar="OPTION=VALUE",
        callback=collect,
        help="Option of the mechanism, as JSON or a word; a list has one value per stage. May be repeated.",
    )(command)


def records_option(command: Command) -> Command:
    """``--records DIR`` on a command; it takes ``records``, a path or ``None``."""
    return click.option(
        "--records",
        type=_types.Existing(),
        metavar="DIR",
        help=f"Folder or file of records.  [default: {DEFAULT_OUT}/records]",
    )(command)


def shown_options(command: Command) -> Command:
    """``--layout``, ``--resolution`` and ``--device`` on a command: which of the records it shows."""
    newest = "[default: the newest record's]"
    options = (
        click.option("--layout", type=_types.Word(), help="Layout.  [default: the one with most rows]"),
        click.option("--resolution", type=_types.RESOLUTION, metavar="N", help=f"Pixels.  {newest}"),
        click.option("--device", type=_types.Device(auto=False), help=f"Device.  {newest}"),
    )
    for option in reversed(options):
        command = option(command)
    return command


def output_option(command: Command) -> Command:
    """``--output FILE`` on a command; it takes ``output``, a path or ``None``."""
    return click.option(
        "--output",
        type=_types.OutputFile(),
        metavar="FILE",
        help="Write there instead of to the terminal.",
    )(command)


def deliver(text: str, output: Path | None) -> None:
    """Write a text, which ends its last line itself, to the file, or to the terminal where there is none.

    Raises:
        AttnbenchError: the file cannot be written.
    """
    if output is None:
        click.echo(text, nl=False)
    else:
        write(output, text)


def write(path: Path, text: str) -> None:
    """Write a file.

    Raises:
        AttnbenchError: it cannot be written.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise AttnbenchError(f"cannot write {path}: {error.strerror}; give another --output") from error


def end_of_run(failed: list[str], asked: int) -> None:
    """Say which cells failed, and end the command with a status that tells.

    Args:
        failed: a line for each.
        asked: how many cells were asked for, measured now or before.
    """
    for failure in failed:
        click.echo(f"failed: {failure}", err=True)
    if failed:
        sys.exit(SOME_FAILED if len(failed) < asked else ALL_FAILED)


def warn(line: str) -> None:
    """Tell the user, beside the output."""
    click.echo(f"warning: {line}", err=True)
