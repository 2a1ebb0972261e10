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


@dataclass(frozen=True)
class Ended:
    """How a command ended: its status, negative for a signal, and what it wrote."""

    status: int
    out: str
    err: str


def forked(cases: list[tuple[list[str], Path]]) -> list[Ended]:
    """Run commands one after another, each in a folder."""
    request = json.dumps([[arguments, str(folder)] for arguments, folder in cases])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        [sys.executable, __file__], input=request, capture_output=True, text=True, env=environment, check=True
    )
    return [Ended(*one) for one in json.loads(done.stdout)]


def _one(arguments: list[str], folder: str) -> tuple[int, str, str]:
    out, err = Path(folder) / "stdout", Path(folder) / "stderr"
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        for number, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        signal.alarm(LIMIT_S)
        from attnbench.__main__ import status
        from attnbench.supervision import supervised

        sys.exit(supervised(lambda: status(arguments)))
    state = os.waitpid(child, 0)[1]
    return os.waitstatus_to_exitcode(state), out.read_text(), err.read_text()


def main() -> None:
    """Answer the request on stdin."""
    import attnbench.harness.conformance.command
    import attnbench.harness.memory.sweep
    import attnbench.harness.run.runner

    loaded: list[Any] = [attnbench.harness.memory.sweep, attnbench.harness.run.runner]
    loaded.append(attnbench.harness.conformance.command)
    cases = json.loads(sys.stdin.read())
    print(json.dumps([_one(*case) for case in cases]))


if __name__ == "__main__":
    main()
