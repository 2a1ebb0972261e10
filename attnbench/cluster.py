"""Many commands of attnbench as jobs of a cluster, through submitit: a sweep is a product of options.

A job is a command line, nothing else: what it does, the same command does by hand, and a job that was killed
or requeued goes on where it stopped, since every command of attnbench does. All jobs write into one store.
"""

import itertools
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnbench.errors import AttnbenchError

if TYPE_CHECKING:
    import submitit

AXES = ("--layout", "--mechanism", "--mechanisms", "--recipe", "--seed", "--data", "--probes")
"""Options whose value may list several things, separated by commas: one job for each combination."""


@dataclass(frozen=True)
class Command:
    """A command of attnbench as a job; submitit sends it to where it runs.

    Args:
        arguments: of ``attnbench``.
    """

    arguments: tuple[str, ...]

    def __call__(self) -> str:
        """Run it; what it printed.

        Raises:
            RuntimeError: it failed; the message ends with what it said.
        """
        line = [sys.executable, "-m", "attnbench", *self.arguments]
        done = subprocess.run(line, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise RuntimeError(f"'attnbench {' '.join(self.arguments)}' ended with status {done.returncode}")
        return done.stdout

    def checkpoint(self) -> "submitit.helpers.DelayedSubmission":
        """What runs when the time is over and the job is queued again: the same command goes on."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def sweep(arguments: Sequence[str]) -> list[tuple[str, ...]]:
    """Every combination of the values that options of :data:`AXES` list.

    ``train --seed 0,1 --mechanism bra,full`` is four command lines.
    """
    values: list[list[str]] = []
    axis = False
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if axis:
            values.append(_several(argument))
        elif equals and name in AXES:
            values.append([f"{name}={one}" for one in _several(value)])
        else:
            values.append([argument])
        axis = argument in AXES and not axis
    return list(dict.fromkeys(itertools.product(*values)))


def submit(
    commands: Sequence[tuple[str, ...]], folder: Path, parameters: Mapping[str, Any], cluster: str = "slurm"
) -> "list[submitit.Job[str]]":
    """Hand commands to the cluster as one array of jobs.

    Args:
        folder: of logs and of what submitit keeps.
        parameters: of submitit's executor, ``timeout_min``, ``slurm_partition`` and so on.
        cluster: ``slurm``, or ``local`` for processes of this machine.

    Raises:
        AttnbenchError: submitit or SLURM is absent, or refuses.
    """
    try:
        import submitit
    except ImportError as error:
        raise AttnbenchError("jobs need submitit: pip install 'attnbench[cluster]'") from error
    try:
        executor = submitit.AutoExecutor(folder, cluster=cluster)
        executor.update_parameters(**parameters)
        with executor.batch():
            jobs = [executor.submit(Command(arguments)) for arguments in commands]
    except (RuntimeError, TypeError, NameError, OSError, ValueError, subprocess.CalledProcessError) as error:
        raise AttnbenchError(
            f"the cluster takes no jobs: {' '.join(str(error).split())[:300]}; is this a machine of SLURM "
            "(sbatch, sinfo)? --cluster local runs them here"
        ) from error
    return jobs


def _several(value: str) -> list[str]:
    return [part for part in value.split(",") if part] or [value]
