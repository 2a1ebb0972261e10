"""A command in a process of its own, which another watches.

Mechanisms and plug-ins are code of anybody's: one may call ``os._exit(0)`` or crash the interpreter, and the
shell would see a success, or nothing but a number. So the command runs in a child, which says with which
status it is done; one that ends without a word was ended by such code, and the parent says so. The fork comes
before torch is imported and before there is any thread, and costs about a millisecond.
"""

import contextlib
import faulthandler
import fcntl
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

from attnbench.errors import AttnbenchError

ENDED = 4
"""Exit status where the command was ended from within: by a crash, or an exit that is not its own."""
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TIME_LIMIT = "ATTNBENCH_TIME_LIMIT"
"""Environment variable: seconds in place of every limit of :func:`time_limit`."""
_GRACE_S = 3.0
"""After a limit, until code that does not come back to Python is ended from outside."""
_SOON_S = 0.001
_ends: list[tuple[float, float]] = []
"""Of the limits that are on, the innermost last: when it ends, and how long it was."""
_crash: IO[bytes] | None = None
"""In a supervised command: where it is written at which line it was ended."""
_ONE_INTERRUPT_S = 1.0
"""Ctrl-C reaches parent and child, and the parent passes it on: within this time it is one and the same."""


def supervised(run: Callable[[], int]) -> int:
    """Run a command in a child process and wait for it.

    Args:
        run: the command; returns its exit status. Nothing may be running beside it yet: no thread, no CUDA.

    Returns:
        The status that it returned, or ``ENDED``, with a line on stderr that says how and where it was ended.
    """
    if not hasattr(os, "fork"):
        return run()
    sys.stdout.flush()
    sys.stderr.flush()
    ours, theirs = os.pipe()
    alive, held = os.pipe()  # nothing is written to it: it closes when the parent is gone
    with tempfile.TemporaryFile() as crash:
        child = os.fork()
        if child == 0:
            os.close(ours)
            os.close(held)
            end_when_closed(alive)
            _be_child(run, theirs, crash)
        os.close(theirs)
        os.close(alive)
        state, passed_on = _wait(child)
        os.set_blocking(ours, False)
        said = _read(ours)
        os.close(ours)
        os.close(held)
        crash.seek(0)
        last_words = crash.read().decode(errors="replace")
    if said:
        return int(said)
    if os.WIFSIGNALED(state) and os.WTERMSIG(state) in passed_on:
        signal.signal(os.WTERMSIG(state), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(state))  # whoever sent it sees what it expects
    how = ended_by(os.waitstatus_to_exitcode(state)).replace("the process", "code that it ran")
    if last_words.startswith("Timeout ("):
        how = f"code that it ran was not done in time, and did not let itself be interrupted ({TIME_LIMIT})"
    where = place_of_crash(last_words)
    print(f"attnbench: error: the command was not finished: {how}{where}", file=sys.stderr)
    return ENDED


def _read(pipe: int) -> bytes:
    """What was written to a pipe; nothing where nobody has, though somebody may still hold its other end."""
    with contextlib.suppress(BlockingIOError):
        return os.read(pipe, 16)
    return b""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in code that takes longer, at its next line of Python.

    A supervised command that goes on all the same, in code of another language or since it catches errors, is
    ended a moment later. In the main thread, where signals arrive; elsewhere there is no limit.

    Args:
        seconds: the limit, unless the environment variable ATTNBENCH_TIME_LIMIT gives another.

    Raises:
        AttnbenchError: the variable is not a positive number.
    """
    seconds = _limit(seconds)
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"not done within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    _ends.append((time.monotonic() + seconds, seconds))
    _arm()
    try:
        yield
    finally:
        _ends.pop()
        signal.signal(signal.SIGALRM, before)
        _arm()


def _arm() -> None:
    """Set the alarm, and what ends the process after it, for the innermost limit, if there is one."""
    if not _ends:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        return
    end, seconds = _ends[-1]
    left = max(end - time.monotonic(), _SOON_S)
    signal.setitimer(signal.ITIMER_REAL, left, 1.0)  # and again, for one who caught it and hangs again
    if _crash is not None:
        faulthandler.dump_traceback_later(left + 0.1 * seconds + _GRACE_S, exit=True, file=_crash.fileno())


def _limit(seconds: float) -> float:
    text = os.environ.get(TIME_LIMIT, "")
    try:
        chosen = float(text) if text else seconds
    except ValueError:
        chosen = 0.0
    if not 0 < chosen < float("inf"):
        raise AttnbenchError(f"{TIME_LIMIT} must be a positive number of seconds, got {text!r}")
    return chosen


def end_when_closed(end: int) -> None:
    """Have the kernel kill this process when the other end of a pipe is closed, whatever it computes then.

    Where the kernel cannot send a signal for that, this does nothing.
    """
    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(end, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(end, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(end, fcntl.F_SETFL, fcntl.fcntl(end, fcntl.F_GETFL) | os.O_ASYNC)


def ended_by(exitcode: int | None) -> str:
    """How a process ended, in words; the negative number of a signal, as :mod:`subprocess` has it."""
    if exitcode is None or exitcode >= 0:
        return f"the process ended with status {exitcode}"
    try:
        name = signal.Signals(-exitcode).name
    except ValueError:
        return f"the process was ended by signal {-exitcode}"
    return {
        "SIGSEGV": "segmentation fault (SIGSEGV)",
        "SIGABRT": "aborted (SIGABRT)",
        "SIGBUS": "bus error (SIGBUS)",
        "SIGFPE": "arithmetic fault (SIGFPE)",
        "SIGILL": "illegal instruction (SIGILL)",
        "SIGKILL": "killed (SIGKILL), perhaps for want of memory",
    }.get(name, f"the process was ended by {name}")


def place_of_crash(output: str) -> str:
    """`` at bad.py:12, in forward``: where faulthandler saw it, rather in a user's file; empty if nowhere."""
    seen = re.findall(r'^  File "(.+?)", line (\d+) in (\S+)', output, re.MULTILINE)
    own = [place for place in seen if not re.search(r"/(site-packages|lib/python[\d.]+)/", place[0])]
    if not seen:
        return ""
    path, line, function = (own or seen)[0]
    return f" at {Path(path).name}:{line}, in {function}"


def _be_child(run: Callable[[], int], pipe: int, crash: IO[bytes]) -> NoReturn:
    """Run, say the status, and leave as any program does."""
    signal.signal(signal.SIGINT, _interrupt_once())
    global _crash
    _crash = crash
    faulthandler.enable(crash.fileno(), all_threads=False)
    status = run()
    os.write(pipe, str(status).encode())
    sys.exit(status)


def _interrupt_once() -> Callable[[int, FrameType | None], None]:
    """A handler of SIGINT that raises KeyboardInterrupt, but not twice for one Ctrl-C."""
    last = [-_ONE_INTERRUPT_S]

    def handle(number: int, frame: FrameType | None) -> None:
        before, last[0] = last[0], time.monotonic()
        if last[0] - before >= _ONE_INTERRUPT_S:
            raise KeyboardInterrupt

    return handle


def _wait(child: int) -> tuple[int, set[int]]:
    """The child's state when it has ended, and the signals that were passed on to it."""
    passed_on: set[int] = set()

    def forward(number: int, frame: FrameType | None) -> None:
        passed_on.add(number)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    before = {number: signal.signal(number, forward) for number in _FORWARDED}
    try:
        return os.waitpid(child, 0)[1], passed_on
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
