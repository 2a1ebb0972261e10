"""Runs a command on a machine with other work on it: do its figures hold?

The other work is processes of one thread each that multiply matrices or copy memory for half a second to
five, rest as long, and so on, all drawn at random: loads that begin and end in the middle of samples, blocks
and processes, and take cores, caches and the memory's bandwidth from what is measured. Ends as the command
does.

    python -m attnbench.results.scripts.beside_work attnbench run --aa --layout swin_pico --device cpu
"""

import contextlib
import multiprocessing
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial

import click
import torch

_TURN_S = 0.5, 5.0
_SIDE = 1024


def _work() -> None:
    """Bursts of work, until the parent is gone."""
    torch.set_num_threads(1)
    a, b = torch.randn(_SIDE, _SIDE), torch.randn(_SIDE, _SIDE)
    much, copy = torch.randn(2, 32 * _SIDE, _SIDE)  # 128 MiB each: more than caches hold
    parent = os.getppid()
    while os.getppid() == parent:
        step = random.choice([partial(torch.mm, a, b), partial(copy.copy_, much)])
        end = time.monotonic() + random.uniform(*_TURN_S)
        while time.monotonic() < end:
            step()
        time.sleep(random.uniform(*_TURN_S))


@contextlib.contextmanager
def other_work(workers: int) -> Iterator[None]:
    """Other work on this machine, by so many processes, until left."""
    context = multiprocessing.get_context("spawn")
    busy = [context.Process(target=_work, daemon=True) for _ in range(workers)]
    for process in busy:
        process.start()
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.join()


@click.command(context_settings={"allow_interspersed_args": False})
@click.option(
    "--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes of other work."
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def main(workers: int, command: tuple[str, ...]) -> None:
    """Run COMMAND beside other work."""
    with other_work(workers):
        try:
            status = subprocess.run(command).returncode
        except OSError as error:
            raise click.ClickException(f"cannot run {command[0]!r}: {error.strerror}") from error
    sys.exit(status)


if __name__ == "__main__":
    main()
