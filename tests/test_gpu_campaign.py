"""The GPU campaign's commands, listed and not run: each is one that the command line takes."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from attnbench import names
from attnbench.__main__ import cli

SCRIPT = Path(__file__).parents[1] / "results/scripts/gpu_campaign.sh"


def campaign(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHON": sys.executable}
    return subprocess.run([SCRIPT, *arguments], env=environment, capture_output=True, text=True)


def commands(device: str) -> dict[str, tuple[int, list[str]]]:
    """By name: its limit in seconds, and the words of the command."""
    found = campaign("/nowhere", device, "list")
    assert (found.returncode, found.stderr) == (0, "")
    lines = [shlex.split(line) for line in found.stdout.splitlines()]
    return {name: (int(limit), words) for limit, name, *words in lines}


def parsed(words: list[str]) -> str:
    """Let click read the words after ``attnbench``, values included; the command's name."""
    group = click.Context(cli)
    command = cli.get_command(group, words[0])
    assert command is not None, words
    command.make_context(words[0], words[1:], parent=group)
    return words[0]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_command_is_one_that_the_command_line_takes(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tables").mkdir()
    monkeypatch.chdir(tmp_path)  # options that name files are checked, too
    run = []
    for _, words in commands(device).values():
        if "bash" in words:  # the checks, one for each mechanism
            shell = words[-1]
            for name in re.search(r"printf '%s\\n' ([\w ]+) \|", shell)[1].split():
                run.append(parsed(shell.split("-m attnbench ")[1].replace("{}", name).split()))
        elif "attnbench" in words:
            run.append(parsed(words[words.index("attnbench") + 1 :]))
    assert {"check", "run", "table"} == set(run)
    assert run.count("check") == 1 + (2 if device == "cpu" else len(names()))


def test_equality_comes_first_and_the_limits_are_ten_minutes() -> None:
    on_gpu = commands("cuda")
    assert list(on_gpu)[:3] == ["goldens", "gpu-tests", "equality"]
    assert all(name.startswith("table-") for name in list(on_gpu)[-3:])
    assert sum(limit for limit, _ in on_gpu.values()) <= 600
    rehearsed = {name.split("-")[0] for name in commands("cpu")}
    assert rehearsed == {name.split("-")[0] for name in on_gpu}


def test_scripts_of_the_campaign_know_their_options() -> None:
    """They read them with argparse; their help says which there are."""
    for device in ("cpu", "cuda"):
        for _, words in commands(device).values():
            module = next((word for word in words if word.startswith("attnbench.results.scripts.")), None)
            if module is not None:
                source = (SCRIPT.parent / f"{module.rsplit('.', 1)[1]}.py").read_text()
                for option in (word for word in words if word.startswith("--")):
                    assert f'add_argument("{option}"' in source, (module, option)


@pytest.mark.parametrize("arguments", [(), ("/nowhere", "gpu"), ("/nowhere", "cpu", "lists")])
def test_mistakes_are_told(arguments: tuple[str, ...]) -> None:
    found = campaign(*arguments)
    assert found.returncode != 0
    assert len(found.stderr.splitlines()) == 1
