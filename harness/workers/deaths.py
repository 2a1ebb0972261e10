"""Why something that was to be measured failed, as the record of it says."""

import re
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from attnbench.supervision import ended_by, place_of_crash

Status = Literal["failed", "out_of_memory", "crashed", "timed_out"]
_VMSTAT = Path("/proc/vmstat")


@dataclass(frozen=True)
class Cause:
    """The status of a record and its reason, in one line."""

    status: Status
    reason: str

    def __str__(self) -> str:
        word = "" if self.status == "failed" else f"{self.status.replace('_', ' ')}: "
        return f"{word}{self.reason}"


def cause_of_error(error: BaseException) -> Cause:
    """Of an exception: its class and the first line of its message."""
    carried = getattr(error, "status", None), getattr(error, "reason", None)
    if carried[0] in ("failed", "out_of_memory", "crashed", "timed_out") and isinstance(carried[1], str):
        return Cause(carried[0], carried[1])
    first = f"{type(error).__name__}: {error}".strip().splitlines()[0]
    ran_out = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    ran_out |= "can't allocate memory" in str(error)  # torch on a CPU
    return Cause("out_of_memory" if ran_out else "failed", first)


def cause_of_death(exitcode: int | None, output: str, oom_kills_before: int) -> Cause:
    """Of a process that has ended without an answer.

    Args:
        exitcode: its status; the negative number of a signal that ended it.
        output: the end of what it wrote to stdout and stderr.
        oom_kills_before: what :func:`oom_kills` gave before it began.
    """
    if exitcode == -signal.SIGKILL:
        if oom_kills() > oom_kills_before:
            return Cause("out_of_memory", "out of memory: the kernel killed the process")
        return Cause("crashed", "the process was killed (SIGKILL)")
    if "std::bad_alloc" in output or "MemoryError" in output:
        return Cause("out_of_memory", "out of memory: the process gave up")
    return Cause("crashed", ended_by(exitcode) + _last_words(output))


def oom_kills() -> int:
    """How often the kernel has killed a process of this machine for want of memory; 0 if it does not say."""
    try:
        match = re.search(r"^oom_kill (\d+)$", _VMSTAT.read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(match.group(1)) if match else 0


def _last_words(output: str) -> str:
    """Where faulthandler saw it, or else the last line it wrote."""
    if where := place_of_crash(output):
        return where
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return f": {lines[-1]}" if lines else ""
