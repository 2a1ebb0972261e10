"""Wrong input to every command: each is refused in one line, or answered; nothing crashes or passes for done.

Commands and options are found by listing, so a new command is covered as it stands. The draws are seeded: a
failure shows the arguments, which repeat it.
"""

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from command_line import Said, call

from attnbench.__main__ import cli
from attnbench.commands import Commands, _types

HERE = Path(__file__).parent
RECORDS = HERE / "records" / "schema_1.jsonl"
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the calls are made: some files that are not what they seem."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "file").write_text("no JSON\n")
    (folder / "empty.jsonl").touch()
    (folder / "folder").mkdir()
    (folder / "bytes.pth").write_bytes(bytes(range(256)))
    os.mkfifo(folder / "fifo.jsonl")
    (folder / "records.jsonl").write_bytes(RECORDS.read_bytes())
    return folder


def _right(parameter: click.Parameter, folder: Path) -> str:
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
    return ()


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


def _spelled(parameter: click.Parameter, value: str, folder: Path) -> list[str]:
    """One parameter with a value on the command line."""
    if isinstance(parameter, click.Argument):
        return ["--", value]
    return [max(parameter.opts, key=len), *[value] * parameter.nargs]


def calls(words: str, folder: Path) -> Iterator[list[str]]:
    """Calls of a command with one value wrong, whatever is required being right."""
    command = COMMANDS[words]
    required = [p for p in command.params if p.required]
    for parameter in command.params:
        others = [p for p in required if p is not parameter]
        begin = words.split()
        for other in others:
            if not isinstance(other, click.Argument):
                begin += _spelled(other, _right(other, folder), folder)
        places = [p for p in others if isinstance(p, click.Argument)]
        for value in _wrong(parameter):
            if isinstance(parameter, click.Argument):
                line = [
                    value if p is parameter else _right(p, folder)
                    for p in command.params
                    if isinstance(p, click.Argument) and (p.required or p is parameter)
                ]
                yield [*begin, "--", *line]
            else:
                yield [
                    *begin,
                    *_spelled(parameter, value, folder),
                    *(_right(place, folder) for place in places),
                ]
    yield [*words.split(), "--no-such-option"]
    yield [*words.split(), *["surplus"] * 9] if not _takes_any_number(command) else [*words.split(), "--x"]


def _takes_any_number(command: click.Command) -> bool:
    return any(p.nargs == -1 for p in command.params if isinstance(p, click.Argument))


def complain(found: list[tuple[Said, str]]) -> None:
    """Fail with every call that went wrong and how."""
    assert not found, "\n".join(f"attnbench {said.arguments}: {why}" for said, why in found)


@pytest.mark.parametrize("words", COMMANDS)
def test_a_wrong_value_is_refused_in_one_line(words: str, folder: Path) -> None:
    said = [call(*arguments, cwd=folder) for arguments in calls(words, folder)]
    complain([(one, why) for one in said if (why := one.accepted())])


def test_there_are_five_hundred_of_them(folder: Path) -> None:
    assert sum(len(list(calls(words, folder))) for words in COMMANDS) >= 500


@pytest.mark.parametrize("words", COMMANDS)
def test_every_option_has_a_type_that_refuses(words: str) -> None:
    loose = [
        p.opts[0]
        for p in COMMANDS[words].params
        if not getattr(p, "is_flag", False) and not _wrong(p) and str(p.name) not in ANY_TEXT
    ]
    assert not loose, f"options of {words} that take any text: {loose}"


ANY_TEXT = {"plugin"}
"""Options whose values only the work itself can judge."""


def _damage(record: dict[str, Any], draw: random.Random) -> Any:
    """A record with one thing wrong."""
    hostile = draw.choice(
        [
            None,
            "",
            "=cmd|'/c calc'!A0",
            "<script>x</script>",
            "a|b\nc",
            -1,
            0,
            1e308,
            10**400,
            [],
            {},
            True,
            "nan",
        ]
    )
    place = draw.choice(["value", "name", "unit", "status", "created", "samples", "details", "cell", "all"])
    record = json.loads(json.dumps(record))
    if place == "all":
        return hostile
    if place == "cell":
        record["cell"][draw.choice(sorted(record["cell"]))] = hostile
    elif place == "details":
        details = record.setdefault("details", {})
        key = draw.choice(["ratio", "control", "verdict", "group", "batch_size", "ratio_low", "uncounted"])
        details[key] = hostile
    else:
        record[place] = hostile
    return record


@pytest.mark.parametrize("command", ["table ablation", "table table5", "table figure1", "compare"])
def test_records_with_anything_in_them(command: str, folder: Path) -> None:
    draw = random.Random(command)
    good = [json.loads(line) for line in RECORDS.read_text().splitlines()]
    path = folder / "damaged.jsonl"
    found: list[tuple[Said, str]] = []
    for _ in range(40):
        lines = [_damage(record, draw) if draw.random() < 0.3 else record for record in good]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        form = draw.choice(["md", "csv", "json"] if command == "compare" else ["md", "csv", "latex", "html"])
        files = ["records.jsonl", str(path)] if command == "compare" else ["--records", str(path)]
        said = call(*command.split(), *files, "--format", form, cwd=folder)
        found += [(said, why)] if (why := said.fault()) else []
        if form == "html" and "<script>" in said.out:
            found.append((said, "a tag from a record in HTML"))
        if form == "csv" and any(line.startswith(("=", '"=')) for line in said.out.splitlines()):
            found.append((said, "a formula from a record in a CSV"))
    complain(found)


def _manifests() -> Iterator[str]:
    entry = {"file": "x.safetensors", "mechanism": "full", "compute_dtype": "float64", "has_gradients": True}
    yield from ("", "[]", "{}", "null", "7", '"x"', '{"entries": null}', '{"entries": 3}', '{"entries": [3]}')
    yield from ('{"entries": [null]}', '{"entries": {"a": 1}}', '{"entries": ["x"]}', "[" * 100_000, "\0")
    for key in entry:
        yield json.dumps({"entries": [{k: v for k, v in entry.items() if k != key}]})
        for value in (None, 3, [], {}, "", "nope", "../../../etc/passwd"):
            yield json.dumps({"entries": [entry | {key: value}]})


def test_golden_manifests_with_anything_in_them(folder: Path) -> None:
    found: list[tuple[Said, str]] = []
    golden = folder / "golden"
    golden.mkdir(exist_ok=True)
    for text in _manifests():
        (golden / "MANIFEST.json").write_text(text)
        said = call("check", "--golden", "golden", "full", cwd=folder)
        why = said.fault() or ("status 0 with nothing equal" if said.status == 0 else "")
        found += [(said, f"{why} for {text[:80]}")] if why else []
    complain(found)


def test_checkpoints_with_anything_in_them(folder: Path) -> None:
    import torch

    found: list[tuple[Said, str]] = []
    contents: list[Any] = [{1: torch.ones(2)}, {}, [], None, 3, "x", {"model": {2: 3}}, {"model": None}]
    contents += [{("a",): torch.ones(1)}, {"a": 1}, torch.ones(3), {"model": {"a": torch.ones(1)}, 3: 4}]
    for number, content in enumerate(contents):
        path = folder / f"{number}.pth"
        torch.save(content, path)
        said = call("load", "swin_pico_full", "--checkpoint", str(path), cwd=folder)
        found += [(said, f"{why} for {content!r}")] if (why := said.accepted()) else []
    for name in ("bytes.pth", "file", "folder", "empty.jsonl"):
        said = call("load", "swin_pico_full", "--checkpoint", name, cwd=folder)
        found += [(said, why)] if (why := said.accepted()) else []
    complain(found)


SETTINGS = {
    "bra": [
        "topk=1.5",
        "topk=true",
        "topk=[]",
        "topk=0",
        "topk=-1",
        "topk=99",
        'topk="1"',
        "topk={}",
        "nope=1",
    ],
    "full": ["self=1", "site=1", "impl=1", "rung=5", "rung=nope", "drop_path_rate=2.0", "num_classes=-1"],
    "shifted_window": [
        "window_size=0",
        "window_size=7.5",
        "qkv_bias=3",
        "img_size=0",
        "in_chans=0",
        "mlp_ratio=-1",
    ],
}


@pytest.mark.parametrize("command", ["memory", "explain", "run", "load"])
def test_an_option_of_a_mechanism_that_cannot_be(command: str, folder: Path) -> None:
    found: list[tuple[Said, str]] = []
    for mechanism, settings in SETTINGS.items():
        for setting in settings:
            tail = ["--set", setting]
            lines = {
                "memory": ["memory", mechanism, "--layout", "swin_pico"],
                "explain": ["explain", mechanism, "--layout", "swin_pico"],
                "run": ["run", "--mechanisms", mechanism, "--metrics", "params", "--in-process"],
                "load": ["load", f"swin_pico_{mechanism}", "--checkpoint", "bytes.pth"],
            }
            said = call(*lines[command], *tail, cwd=folder)
            found += [(said, why)] if (why := said.accepted()) else []
    complain(found)
