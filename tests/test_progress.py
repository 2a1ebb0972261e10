"""What a run shows while it is under way: in place on a terminal, once a phase in a log."""

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from attnbench import progress


def run(shown: progress.TerminalProgress | progress.PlainProgress) -> None:
    with shown as bars:
        for phase in ("parameters", "memory"):
            bars.phase(phase, 2)
            bars.step("first")
            bars.step("second")


def tables() -> tuple[Callable[[], str], list[int]]:
    made: list[int] = []

    def make() -> str:
        made.append(len(made))
        return f"table {len(made)}"

    return make, made


def test_a_log_has_one_table_a_phase(capsys: pytest.CaptureFixture[str]) -> None:
    make, made = tables()
    run(progress.PlainProgress(make))
    lines = capsys.readouterr().err.splitlines()
    assert sum(line.startswith("table") for line in lines) == 1  # the last one is printed by the command
    assert lines.index("table 1") < next(i for i, line in enumerate(lines) if "memory 1/2" in line)
    assert len(made) == 1


def test_a_log_shows_no_empty_table(capsys: pytest.CaptureFixture[str]) -> None:
    run(progress.PlainProgress(lambda: ""))
    assert "\n\n" not in capsys.readouterr().err


def test_a_terminal_redraws_in_place_and_leaves_the_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_REDRAW_S", -1.0)
    make, made = tables()
    shown = progress.TerminalProgress(make)
    written = io.StringIO()
    shown._console = shown._live.console = Console(file=written, force_terminal=True, width=100)
    run(shown)
    assert len(made) == 6, "at the start of each phase and after each step"
    left = written.getvalue().rpartition("\x1b[2K")[2]
    assert "table" not in left, "what stays is the bars; the command prints the table"
    assert "memory" in left
