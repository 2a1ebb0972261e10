"""Commands, each in a process forked from one that has torch already, watched as those of the shell are.

Run as a program: reads cases from stdin as JSON lists ``[arguments, folder]``, writes for each
its status, stdout and stderr.
"""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIMIT_S = 60
AT_ONCE = 2


@dataclass(frozen=True)
class Ended:
    """How a command ended: its status, negative for a signal, and what it wrote."""

    status: int
    out: str
    err: str


def forked(cases: list[tuple[list[str], Path]]) -> list[Ended]:
    """Run commands, some at once, each in a folder that no other one uses."""
    request = json.dumps([[arguments, str(folder)] for arguments, folder in cases])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        [sys.executable, __file__], input=request, capture_output=True, text=True, env=environment, check=True
    )
    return [Ended(*one) for one in json.loads(done.stdout)]


def _start(arguments: list[str], folder: str) -> int:
    """Fork a command that writes to files in its folder; its process."""
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        for number, path in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        signal.alarm(LIMIT_S)
        from attnbench.__main__ import status
        from attnbench.supervision import supervised

        sys.exit(supervised(lambda: status(arguments)))
    return child


def _all(cases: list[tuple[list[str], str]]) -> list[tuple[int, str, str]]:
    """Status, stdout and stderr of each, in the order of the cases."""
    waiting, running = list(enumerate(cases)), dict[int, int]()
    statuses: dict[int, int] = {}
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            number, (arguments, folder) = waiting.pop(0)
            running[_start(arguments, folder)] = number
        child, state = os.wait()
        statuses[running.pop(child)] = os.waitstatus_to_exitcode(state)
    return [
        (statuses[number], *((Path(folder) / name).read_text() for name in ("stdout", "stderr")))
        for number, (_, folder) in enumerate(cases)
    ]


def main() -> None:
    """Answer the request on stdin."""
    import attnbench.harness.conformance.command
    import attnbench.harness.memory.sweep
    import attnbench.harness.run.runner

    loaded: list[Any] = [attnbench.harness.memory.sweep, attnbench.harness.run.runner]
    loaded.append(attnbench.harness.conformance.command)
    cases = json.loads(sys.stdin.read())
    print(json.dumps(_all(cases)))


if __name__ == "__main__":
    main()
