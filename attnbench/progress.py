"""Progress of a run: bars with the time left on a terminal, plain lines elsewhere. Both on stderr."""

import sys
import time
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars


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


class TerminalProgress:
    """One bar per phase."""

    def __init__(self) -> None:
        self._bars = Bars(
            TextColumn("{task.description:<28}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[what]}"),
            console=Console(stderr=True),
        )
        self._task = self._bars.add_task("starting", total=None, what="", visible=False)
        self._size = 0

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        if kind is None:
            self._finish()
        self._bars.stop()

    def phase(self, title: str, total: int) -> None:
        """A phase of ``total`` steps begins; the one before is complete."""
        self._finish()
        self._size = total
        self._task = self._bars.add_task(title, total=total, what="")

    def step(self, what: str) -> None:
        """One step is done."""
        self._bars.update(self._task, advance=1, what=what)

    def at_least(self, done: int, what: str) -> None:
        """One step, or ``done`` steps in all if that is more."""
        completed = self._bars._tasks[self._task].completed
        self._bars.update(self._task, completed=min(max(done, completed + 1), self._size), what=what)

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        self._bars.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _finish(self) -> None:
        task = self._bars._tasks[self._task]
        self._bars.update(self._task, completed=task.total, what="")


class PlainProgress:
    """One line per phase and per step, for logs."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._title, self._total, self._done = "", 0, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def phase(self, title: str, total: int) -> None:
        """A phase of ``total`` steps begins."""
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


def make_progress() -> TerminalProgress | PlainProgress:
    """The form that suits where stderr goes."""
    return TerminalProgress() if sys.stderr.isatty() else PlainProgress()


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
