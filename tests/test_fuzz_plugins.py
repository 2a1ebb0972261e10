"""Plug-ins that do anything: raise, exit, crash, print, hang, register nonsense, at import and when they run.

No command may end with status 0 if what it was asked for failed, show a traceback, or lose the reason. The
names that they register are not those of their files.
"""

import json
from collections.abc import Collection
from pathlib import Path

import pytest
from forked import Ended, forked

HEAD = """
import ctypes, os, sys, time
import torch
from torch import nn
from attnbench import register_mechanism

{top}

@register_mechanism({declared})
class Mechanism(nn.Module):
    def __init__(self, site, *, width: int = 1):
        super().__init__()
        {init}

    def forward(self, x):
        {forward}
        return x

    def macs(self, height, width):
        return {{"projection": 0}}

{bottom}
"""
GOOD = {"top": "", "declared": '"row"', "init": "pass", "forward": "pass", "bottom": ""}
AT_IMPORT = {
    "raises": {"top": "raise RuntimeError('by design')"},
    "asserts": {"top": "assert False"},
    "syntax": {"top": "def ("},
    "no_package": {"top": "import no_such_package_at_all"},
    "sys_exit": {"top": "sys.exit(0)"},
    "sys_exit_word": {"top": "sys.exit('bye')"},
    "interrupts_itself": {"bottom": "raise SystemExit"},
    "os_exit": {"top": "os._exit(0)"},
    "crashes": {"top": "ctypes.string_at(0)"},
    "registers_number": {"declared": "5"},
    "registers_empty": {"declared": '""'},
    "registers_keyword_nonsense": {"declared": '"row", nonsense=1'},
    "title_is_number": {"declared": '"row", title=5'},
    "impls_is_number": {"declared": '"row", impls=5'},
    "year_is_text": {"declared": '"row", year="old"'},
    "per_stage_is_list": {"declared": '"row", per_stage=[1]'},
    "pattern_unknown": {"declared": '"row", pattern="zigzag"'},
    "nested": {"declared": '"row", title=' + "(" * 250 + '"x"' + ")" * 250},
    "deep": {"declared": '"row", title=' + "-" * 5000 + "1"},
    "taken": {"declared": '"full"'},
    "twice": {"bottom": 'register_mechanism("row")(nn.Identity)'},
    "registers_nothing": {"top": "register_mechanism = lambda name: lambda c: c"},
}
WHEN_RUN = {
    "raises": {"forward": "raise RuntimeError('by design')"},
    "raises_in_init": {"init": "raise RuntimeError('by design')"},
    "sys_exit": {"forward": "sys.exit(0)"},
    "sys_exit_in_init": {"init": "sys.exit(0)"},
    "os_exit": {"forward": "os._exit(0)"},
    "os_exit_in_init": {"init": "os._exit(0)"},
    "crashes": {"forward": "ctypes.string_at(0)"},
    "aborts": {"forward": "os.abort()"},
    "wrong_shape": {"forward": "x = x[:, :1]"},
    "no_tensor": {"forward": "x = None"},
    "recursion": {"forward": "self.forward(x)"},
}
SLEEPS, COUNTS = "time.sleep(3600)", "sum(range(10**15))"
"""The second is in C, where no signal is looked at."""
HANGS = {
    "import sleeps: check": ({"top": SLEEPS}, "not done within 2 s (file_import_sleeps.py:7)"),
    "import counts: memory": ({"top": COUNTS}, "did not let itself be interrupted"),
    "init sleeps: check": ({"init": SLEEPS}, "not done"),
    "forward counts: check": ({"forward": COUNTS}, "did not let itself be interrupted"),
    "forward sleeps: run": ({"forward": SLEEPS}, "not done within 2 s"),
    "forward sleeps: memory": ({"forward": SLEEPS}, "not done"),
}
PRINTS = {"top": "print('hello')", "init": "print('hello')", "forward": "print('hello')"}


def write(folder: Path, name: str, change: dict[str, str]) -> str:
    """A plug-in; its file's name says nothing of what it registers."""
    path = folder / f"file_{name}.py"
    path.write_text(HEAD.format(**{**GOOD, **change}))
    return str(path)


def commands(path: str) -> dict[str, list[str]]:
    """The ways to use a plug-in that registers ``row``."""
    pico = ["--layout", "swin_pico", "--device", "cpu"]
    counted = ["--metrics", "params,memory", "--modes", "infer", "--precision", "fp32", "--in-process"]
    return {
        "check": ["check", path, "--only", "builds,single_token"],
        "memory": ["memory", "row", *pico, "--plugin", path],
        "run": ["run", "--mechanisms", "row", *pico, *counted, "--plugin", path],
    }


def fault(ended: Ended) -> str:
    """What a command must not do with a plug-in that is broken."""
    if "Traceback" in ended.out + ended.err:
        return f"a traceback: {ended.err[-300:]}"
    if ended.status not in (1, 2, 3, 4):
        return f"status {ended.status}: {(ended.out + ended.err)[-300:]}"
    return ""


def each(folder: Path, kinds: dict[str, dict[str, str]], everywhere: Collection[str]) -> dict[str, Ended]:
    """Plug-ins under commands: those named ``everywhere`` under all, the others in turn under one each."""
    cases: dict[str, tuple[list[str], Path]] = {}
    for number, (name, change) in enumerate(kinds.items()):
        path = write(folder, name, change)
        ways = list(commands(path).items())
        for command, arguments in ways if name in everywhere else [ways[number % len(ways)]]:
            own = folder / f"{name}_{command}"
            own.mkdir()
            cases[f"{name}: {command}"] = (arguments, own)
    return dict(zip(cases, forked(list(cases.values())), strict=True))


@pytest.mark.slow
def test_what_fails_at_import_is_told_with_its_reason(tmp_path: Path) -> None:
    ended = each(tmp_path, AT_IMPORT, ("raises", "no_package", "sys_exit", "crashes"))
    wrong = {case: why for case, one in ended.items() if (why := fault(one))}
    wrong |= {
        case: f"not one line: {one.err}"
        for case, one in ended.items()
        if len([line for line in one.err.splitlines() if line.startswith("attnbench: error")]) != 1
    }
    assert not wrong
    assert "by design (file_raises.py:7)" in ended["raises: run"].err
    assert "'no_such_package_at_all' (file_no_package.py:7)" in ended["no_package: memory"].err
    assert "its code called exit(0) (file_sys_exit.py:7)" in ended["sys_exit: run"].err


@pytest.mark.slow
def test_what_fails_when_it_runs_never_ends_with_success(tmp_path: Path) -> None:
    ended = each(tmp_path, WHEN_RUN, WHEN_RUN)
    wrong = {case: why for case, one in ended.items() if (why := fault(one))}
    assert not wrong
    assert "by design" in ended["raises: run"].err
    assert "must map" in ended["wrong_shape: run"].err
    assert "SIGSEGV" in ended["crashes: memory"].err


@pytest.mark.slow
def test_what_hangs_is_ended_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNBENCH_TIME_LIMIT", "2")
    cases = []
    for case, (change, _) in HANGS.items():
        name, _, command = case.partition(": ")
        own = tmp_path / case.replace(": ", "_")
        own.mkdir()
        cases.append((commands(write(tmp_path, name.replace(" ", "_"), change))[command], own))
    for (case, (_, told)), ended in zip(HANGS.items(), forked(cases), strict=True):
        assert fault(ended) == "", case
        assert told in ended.out + ended.err, case


@pytest.mark.slow
def test_what_is_printed_is_no_part_of_what_a_program_reads(tmp_path: Path) -> None:
    path = write(tmp_path, "prints", PRINTS | {"bottom": "print('bye')"})
    memory = ["memory", "row", "--layout", "swin_pico", "--device", "cpu"]
    for command in (["list"], memory):
        own = tmp_path / command[0]
        own.mkdir()
        (ended,) = forked([([*command, "--format", "json", "--plugin", path], own)])
        assert ended.status == 0, ended.err
        assert json.loads(ended.out)
        assert "hello" in ended.err
