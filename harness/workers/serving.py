"""The life of a worker's process: see :mod:`attnbench.harness.workers.isolation` for the other side."""

import contextlib
import faulthandler
import fcntl
import importlib.util
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Self

import torch

from attnbench import registry
from attnbench.harness import environment
from attnbench.harness.workers.deaths import Cause, cause_of_error
from attnbench.supervision import end_when_closed


@dataclass(frozen=True)
class Inheritance:
    """What a process must be told of this one to measure the same: mechanisms, threads, precision."""

    environ: dict[str, str]
    plugins: tuple[str, ...]
    modules: tuple[tuple[str, str], ...]
    threads: int
    matmul_precision: str
    tf32: tuple[bool, bool]
    deterministic: bool
    pinned: bool

    @classmethod
    def here(cls) -> Self:
        """Of this process."""
        return cls(
            environ=dict(os.environ),
            plugins=tuple(registry.plugins()),
            modules=tuple(_modules_of_mechanisms()),
            threads=torch.get_num_threads(),
            matmul_precision=torch.get_float32_matmul_precision(),
            tf32=(torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32),
            deterministic=torch.are_deterministic_algorithms_enabled(),
            pinned=environment.allocator_is_pinned(),
        )

    def apply(self) -> None:
        """Make this process such a one."""
        if self.pinned:
            environment.pin_allocator()
        os.environ.clear()
        os.environ.update(self.environ)
        torch.set_num_threads(self.threads)
        torch.set_float32_matmul_precision(self.matmul_precision)
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = self.tf32
        torch.use_deterministic_algorithms(self.deterministic)
        for path in self.plugins:
            registry.add_plugin(path)
        for name, path in self.modules:
            _import_as(name, path)


def _modules_of_mechanisms() -> Iterator[tuple[str, str]]:
    """Modules that registered a mechanism by being run, not by lying where mechanisms are found."""
    for module in registry.registering_modules():
        path = getattr(sys.modules.get(module), "__file__", None)
        if path and module != "__main__":  # multiprocessing sees to the main module
            yield module, path


def _import_as(name: str, path: str) -> None:
    """Import a module, by its path where it cannot be found by name (a test module, say)."""
    if name in sys.modules:
        return
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
        return
    spec = importlib.util.spec_from_file_location(name, path)
    if spec and spec.loader:
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)


def serve(pipe: Connection, log: str, inheritance: Inheritance) -> None:
    """Make an object, then answer until the parent is gone."""
    os.setsid()  # Ctrl-C is for the parent; and it can kill this process with all that it starts
    _die_with_parent()
    _be_killed_first()
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.unlink(log)  # the parent reads it through its own descriptor; nothing stays behind if it is killed
    faulthandler.enable(all_threads=False)
    held: Any = None
    failed_to_begin = _attempt(inheritance.apply)
    while True:
        try:
            what, args = pipe.recv()
        except EOFError:
            os._exit(0)
        except Exception as error:  # what was asked for does not unpickle here
            pipe.send(cause_of_error(error))
            continue
        if isinstance(failed_to_begin, Cause):
            pipe.send(failed_to_begin)
        elif isinstance(what, str):
            _answer(pipe, _attempt(lambda: getattr(held, what)(*args)))  # noqa: B023  called at once
        else:
            held = _attempt(what, *args)
            pipe.send(held if isinstance(held, Cause) else None)


def _attempt(function: Callable[..., Any], *args: Any) -> Any:
    """What a function returns, or the cause of its failure."""
    try:
        return function(*args)
    except (Exception, SystemExit) as error:
        return cause_of_error(error)


def _answer(pipe: Connection, answer: Any) -> None:
    try:
        pipe.send(answer)
    except Exception as error:  # it does not pickle
        pipe.send(cause_of_error(error))


def _die_with_parent() -> None:
    """Have the kernel kill this process when the parent is gone, whatever it is computing at that moment.

    The parent holds the other end of a pipe to which nothing is ever written. Where the kernel cannot send
    a signal when it closes, a thread waits for that.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def follow() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)

    if hasattr(fcntl, "F_SETSIG"):
        end_when_closed(parent.sentinel)
        if wait([parent.sentinel], 0):
            follow()
    else:
        threading.Thread(target=follow, daemon=True).start()


def _be_killed_first() -> None:
    """Where memory runs out, let the kernel take this process and not the one that writes the records."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("800")
