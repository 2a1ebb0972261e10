"""Wrong input to every command: each is refused in one line, or answered; nothing crashes or passes for done.

Commands and options are found by listing, so a new command is covered as it stands. The draws are seeded: a
failure shows the arguments, which repeat it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from command_line import call, complain

from attnbench.__main__ import cli
from attnbench.commands import Commands, _types

TEXTS = (
    "",
    " ",
    ",",
    "nope",
    "../../etc",
    "-",
    "=1+1",
    "<b>",
    "a\nb",
    "é" * 300,
    "\0",
    "full,,bra",
    "swin_t/",
)
NUMBERS = ("", " ", "x", "1.5", "nan", "inf", "-1", "1e3", "0x10", "9" * 5000, "1,2", "٣x")


def commands() -> dict[str, click.Command]:
    """Every command by the words that call it; those of a group are commands, too."""
    found: dict[str, click.Command] = {}
    context = click.Context(cli)

    def add(words: str, command: click.Command | None) -> None:
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                add(f"{words} {name}".strip(), command.get_command(context, name))
        elif command is not None:
            found[words] = command

    assert isinstance(cli, Commands)
    add("", cli)
    return found


COMMANDS = commands()
UNTYPED: set[str] = set()
"""Commands whose options are not typed yet."""


def _right(parameter: click.Parameter) -> str:
    """A value that a parameter takes, so that only the other one is wrong."""
    kind = parameter.type
    if isinstance(kind, click.Choice):
        return str(kind.choices[0])
    if isinstance(kind, _types.Existing):
        return "records.jsonl"
    known = {"name": "ablation", "model": "swin_pico_full", "a": "swin_pico/full", "b": "swin_pico/pooling"}
    known |= {"before": "records.jsonl", "after": "records.jsonl", "reference": "shifted_window"}
    return known.get(str(parameter.name), "full")


def _wrong(parameter: click.Parameter) -> tuple[str, ...]:
    """Values that a parameter must refuse, by its type."""
    kind = parameter.type
    if isinstance(kind, (click.IntRange, click.FloatRange)):
        beyond = [] if kind.max is None else [str(kind.max * 2 + 1)]
        beyond += [] if kind.min is None else [str(kind.min - 1)]
        accepted = ("1.5", "1e3", "9" * 5000) if isinstance(kind, click.FloatRange) else ()
        # a float of 5,000 digits is infinite, and refused as such
        numbers = [text for text in NUMBERS if text not in accepted[:2]]
        return (*(n for n in numbers if not _in_range(kind, n)), *beyond)
    if isinstance(kind, _types.Wholes):
        return ("", ",", "x", "0", "1.5", "-4", "224,", "224,x", "9" * 5000)
    if isinstance(kind, click.Choice):
        return (*TEXTS, str(kind.choices[0]) + "x", str(kind.choices[0]).upper() + "?")
    if isinstance(kind, _types.Setting):
        return ("", "=", "=1", "topk", "a b=1", "1a=2", "x=NaN", "x=-Infinity", "x=" + "[" * 100_000)
    if isinstance(kind, (_types.Name, _types.Word, _types.Device)):
        return TEXTS
    if isinstance(kind, _types.OutputFile):
        return ("", " ", "folder", "nowhere/file.csv", "/proc/nowhere/x", "\0")
    if isinstance(kind, _types.Folder):
        return ("", " ", "file", "\0")
    if isinstance(kind, _types.Existing):
        return ("", " ", "nowhere", "\0", "fifo.jsonl")
    return () if isinstance(kind, click.types.StringParamType | click.types.BoolParamType) else TEXTS


def _in_range(kind: Any, text: str) -> bool:
    """Whether click would take a number of the list for one in the range."""
    try:
        number = float(text) if isinstance(kind, click.FloatRange) else int(text)
    except ValueError:
        return False
    if number != number or number in (float("inf"), -float("inf")):
        return False
    above = kind.min is None or number >= kind.min
    return above and (kind.max is None or number <= kind.max)


def _spelled(parameter: click.Parameter, value: str) -> list[str]:
    """One parameter with a value on the command line."""
    if isinstance(parameter, click.Argument):
        return ["--", value]
    return [max(parameter.opts, key=len), *[value] * parameter.nargs]


def calls(words: str) -> Iterator[list[str]]:
    """Calls of a command with one value wrong, whatever is required being right."""
    command = COMMANDS[words]
    required = [p for p in command.params if p.required]
    for parameter in command.params:
        others = [p for p in required if p is not parameter]
        begin = words.split()
        for other in others:
            if not isinstance(other, click.Argument):
                begin += _spelled(other, _right(other))
        places = [p for p in others if isinstance(p, click.Argument)]
        for value in _wrong(parameter):
            if isinstance(parameter, click.Argument):
                line = [
                    value if p is parameter else _right(p)
                    for p in command.params
                    if isinstance(p, click.Argument) and (p.required or p is parameter)
                ]
                yield [*begin, "--", *line]
            else:
                yield [
                    *begin,
                    *_spelled(parameter, value),
                    *(_right(place) for place in places),
                ]
    yield [*words.split(), "--no-such-option"]
    yield [*words.split(), *["surplus"] * 9] if not _takes_any_number(command) else [*words.split(), "--x"]


def _takes_any_number(command: click.Command) -> bool:
    return any(p.nargs == -1 for p in command.params if isinstance(p, click.Argument))


@pytest.mark.parametrize("words", COMMANDS)
def test_a_wrong_value_is_refused_in_one_line(words: str, odd_folder: Path) -> None:
    said = [call(*arguments, cwd=odd_folder) for arguments in calls(words)]
    complain([(one, why) for one in said if (why := one.accepted())])


def test_there_are_five_hundred_of_them() -> None:
    assert sum(len(list(calls(words))) for words in COMMANDS) >= 500


@pytest.mark.parametrize("words", sorted(set(COMMANDS) - UNTYPED))
def test_every_option_has_a_type_that_refuses(words: str) -> None:
    loose = [
        p.opts[0]
        for p in COMMANDS[words].params
        if not getattr(p, "is_flag", False) and not _wrong(p) and str(p.name) not in ANY_TEXT
    ]
    assert not loose, f"options of {words} that take any text: {loose}"


ANY_TEXT = {"plugin", "arguments", "show"}
"""Options whose values only the work itself can judge."""
