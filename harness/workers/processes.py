"""How processes are started: forked from a server that has imported what they need. Needs no torch."""

import multiprocessing
import os
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, SpawnContext

PRELOADED = ("attnbench.__main__", "attnbench.harness.workers.preloaded")


def start_server() -> None:
    """Let the server begin its imports now, while this process still has its own to do."""
    if isinstance(context(), ForkServerContext):
        _hush_tracker()
        forkserver.ensure_running()


def _hush_tracker() -> None:
    """Keep Python's tracker of semaphores from telling the user of those that a killed worker had.

    It removes them and warns, in a process of its own that reads this variable.
    """
    filters = os.environ.get("PYTHONWARNINGS", "")
    ours = "ignore::UserWarning:multiprocessing.resource_tracker"
    if ours not in filters:
        os.environ["PYTHONWARNINGS"] = f"{filters},{ours}".lstrip(",")


def context() -> ForkServerContext | SpawnContext:
    """Processes forked from a server, which has neither threads nor a CUDA context; spawned without one.

    torch's notes on multiprocessing allow CUDA in either, and in no process forked from one that has used it.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    chosen = multiprocessing.get_context("forkserver")
    chosen.set_forkserver_preload(list(PRELOADED))
    return chosen
