"""How processes are started: forked from a server that has imported what they need. Needs no torch."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, SpawnContext

PRELOADED = ("attnbench.__main__", "attnbench.harness.workers.preloaded")


def start_server() -> None:
    """Let the server begin its imports now, while this process still has its own to do."""
    if isinstance(context(), ForkServerContext):
        _hush_tracker()
        with _deaf_to_interrupts():
            forkserver.ensure_running()


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Ctrl-C is for the command: what is started here inherits that it is ignored, and hands that on."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


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
