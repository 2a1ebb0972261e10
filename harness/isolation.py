"""A fresh process for what is measured, so that a crash, a hang or a lack of memory costs one cell only.

A :class:`Worker` makes an object in another process and calls its methods there. Processes are forked from
a server that has imported torch and attnbench and done nothing else, so that one starts in milliseconds
and inherits nothing from what was measured before: no threads, no CUDA context, no fragmented memory.
Where there is no such server (Windows) a process is spawned, which imports everything anew.
"""

import contextlib
import faulthandler
import fcntl
import importlib.util
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from attnbench import registry
from attnbench.harness import environment
from attnbench.harness.deaths import Cause, cause_of_death, cause_of_error, oom_kills
from attnbench.harness.processes import context

_START_LIMIT_S = 120.0
"""For a process to start and make its object, where no time limit is given."""


class WorkerError(Exception):
    """The code in a worker raised an exception: its class and the first line of its message.

    ``status`` is what the record of the cell says: ``failed`` or ``out_of_memory``.
    """

    def __init__(self, cause: Cause) -> None:
        super().__init__(cause.reason)
        self.status, self.reason = cause.status, cause.reason


class WorkerDied(WorkerError):  # noqa: N818  what happened, in a word
    """The worker is gone: killed by a signal, for want of memory, or by us because it took too long.

    ``status`` is ``crashed``, ``out_of_memory`` or ``timed_out``.
    """


class Worker:
    """An object in a process of its own.

    Args:
        factory: what makes the object there; importable by name.
        args: for the factory; they must pickle.
        time_limit_s: seconds that the making, and then each call, may take; ``None`` for no limit.

    Raises:
        WorkerError: the factory raises.
        WorkerDied: the process does not survive the factory.
    """

    def __init__(self, factory: Callable[..., Any], *args: Any, time_limit_s: float | None = None) -> None:
        self._limit = time_limit_s
        self._log, self._log_path = tempfile.mkstemp(prefix="attnbench-", suffix=".log")
        self._oom_kills = oom_kills()
        self._pipe, theirs = multiprocessing.Pipe()
        arguments = (theirs, self._log_path, _Inheritance.here())
        self._process = context().Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self._ask((factory, args), _START_LIMIT_S if time_limit_s is None else time_limit_s)

    def call(self, method: str, *args: Any, time_limit_s: float | None = None) -> Any:
        """Call a method of the object there and return what it returns.

        Args:
            method: its name.
            args: they must pickle, as must the result.
            time_limit_s: for this call, in place of the worker's own.

        Raises:
            WorkerError: the method raises. The worker stays, and can be asked again.
            WorkerDied: the process is gone, now or since an earlier call.
        """
        return self._ask((method, args), time_limit_s or self._limit)

    def close(self) -> None:
        """Kill the process and all it started; harmless if it is gone."""
        if self._process.pid is not None and self._process.exitcode is None:
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.kill()
            self._process.join()
        if not self._pipe.closed:
            self._pipe.close()
            os.close(self._log)
            with contextlib.suppress(OSError):
                os.unlink(self._log_path)

    @property
    def pid(self) -> int | None:
        """Of the process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return not self._pipe.closed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, request: tuple[Any, tuple[Any, ...]], limit: float | None) -> Any:
        if not self.alive:
            raise WorkerDied(Cause("crashed", "its process has ended"))
        try:
            self._pipe.send(request)
            if not wait([self._pipe], limit):
                self._end(Cause("timed_out", f"no answer within {limit:g} s"))
            answer = self._pipe.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            self._end(cause_of_death(self._process.exitcode, self._tail(), self._oom_kills))
        except BaseException:  # an interrupt between question and answer: they would not match again
            self.close()
            raise
        if isinstance(answer, Cause):
            raise WorkerError(answer)
        return answer

    def _end(self, cause: Cause) -> None:
        self.close()
        raise WorkerDied(cause)

    def _tail(self) -> str:
        """The end of what the process wrote to stdout and stderr."""
        size = os.fstat(self._log).st_size
        return os.pread(self._log, 8192, max(0, size - 8192)).decode(errors="replace")


@dataclass(frozen=True)
class _Inheritance:
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


def _serve(pipe: Connection, log: str, inheritance: _Inheritance) -> None:
    """The life of a worker's process: make an object, then answer until the parent is gone."""
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
    except Exception as error:
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
        end = parent.sentinel
        fcntl.fcntl(end, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(end, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(end, fcntl.F_SETFL, fcntl.fcntl(end, fcntl.F_GETFL) | os.O_ASYNC)
        if wait([end], 0):
            follow()
    else:
        threading.Thread(target=follow, daemon=True).start()


def _be_killed_first() -> None:
    """Where memory runs out, let the kernel take this process and not the one that writes the records."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("800")
