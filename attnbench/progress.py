"""Progress of a run: bars with the time left on a terminal, plain lines elsewhere. Both on stderr.

Both may show what was measured so far: on a terminal below the bars, redrawn in place after each cell; in a
log once at the end of each phase.
"""

import sys
import time
from collections.abc import Callable
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

_REDRAW_S = 2.0
"""Seconds between two tables on a terminal: making one takes a tenth of a second."""


class Progress(Protocol):
    """What work reports to while it goes on."""

    def phase(self, title: str, total: int) -> None:
        """A phase of ``total`` equal steps begins."""

    def step(self, what: str) -> None:
        """One step of the phase is done."""

    def at_least(self, done: int, what: str) -> None:
        """One more, or ``done`` steps if that is more: time, not work, may end the phase."""

    def say(self, line: str) -> None:
        """A line for the user."""


def _nothing() -> str:
    return ""


class TerminalProgress:
    """One bar per phase, and below them the table so far."""

    def __init__(self, table: Callable[[], str] = _nothing) -> None:
        self._make, self._table, self._drawn = table, "", -_REDRAW_S
        self._console = Console(stderr=True)
        self._bars = Bars(
            TextColumn("{task.description:<28}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[what]}"),
            console=self._console,
        )
        self._live = Live(get_renderable=self._picture, console=self._console, transient=True)
        self._task = self._bars.add_task("starting", total=None, what="", visible=False)
        self._size = 0

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        if kind is None:
            self._finish()
        self._table = ""
        self._live.stop()
        self._console.print(self._bars.get_renderable())

    def phase(self, title: str, total: int) -> None:
        """A phase of ``total`` steps begins; the one before is complete."""
        self._finish()
        self._size = total
        self._task = self._bars.add_task(title, total=total, what="")
        self._redraw()

    def step(self, what: str) -> None:
        """One step is done."""
        self._bars.update(self._task, advance=1, what=what)
        if time.monotonic() - self._drawn > _REDRAW_S:
            self._redraw()

    def at_least(self, done: int, what: str) -> None:
        """One step, or ``done`` steps in all if that is more."""
        completed = self._bars._tasks[self._task].completed
        self._bars.update(self._task, completed=min(max(done, completed + 1), self._size), what=what)

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _redraw(self) -> None:
        self._table, self._drawn = self._make(), time.monotonic()

    def _picture(self) -> Group:
        """The bars first: a table that is taller than the terminal is cut at its end."""
        return Group(self._bars.get_renderable(), Text(f"\n{self._table}", no_wrap=True, overflow="crop"))

    def _finish(self) -> None:
        task = self._bars._tasks[self._task]
        self._bars.update(self._task, completed=task.total, what="")


class PlainProgress:
    """One line per phase and per step, for logs, and the table so far when a phase begins."""

    def __init__(self, table: Callable[[], str] = _nothing) -> None:
        self._make = table
        self._start = time.monotonic()
        self._title, self._total, self._done = "", 0, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def phase(self, title: str, total: int) -> None:
        """A phase of ``total`` steps begins."""
        if self._done and (table := self._make()):
            print(f"\n{table}", file=sys.stderr, flush=True)
        self._title, self._total, self._done = title, total, 0

    def step(self, what: str) -> None:
        """One step is done."""
        self.at_least(0, what)

    def at_least(self, done: int, what: str) -> None:
        """One step, or ``done`` steps in all if that is more."""
        self._done = min(max(done, self._done + 1), self._total)
        self.say(f"{self._title} {self._done}/{self._total}: {what}")

    def say(self, line: str) -> None:
        """Print a line with the seconds since the start."""
        print(f"[{time.monotonic() - self._start:6.1f} s] {line}", file=sys.stderr, flush=True)


def make_progress(table: Callable[[], str] = _nothing) -> TerminalProgress | PlainProgress:
    """The form that suits where stderr goes; ``table`` makes the table so far, or gives an empty text."""
    return TerminalProgress(table) if sys.stderr.isatty() else PlainProgress(table)


class QuietProgress:
    """Says nothing but what must be said."""

    def phase(self, title: str, total: int) -> None:
        """A phase begins."""

    def step(self, what: str) -> None:
        """One step is done."""

    def at_least(self, done: int, what: str) -> None:
        """One step is done."""

    def say(self, line: str) -> None:
        """Print a line."""
        print(line, file=sys.stderr, flush=True)
