"""A fresh process for what is measured, so that a crash, a hang or a lack of memory costs one cell only.

A :class:`Worker` makes an object in another process and calls its methods there. Processes are forked from
a server that has imported torch and attnbench and done nothing else, so that one starts in milliseconds
and inherits nothing from what was measured before: no threads, no CUDA context, no fragmented memory.
Where there is no such server (Windows) a process is spawned, which imports everything anew.
"""

import contextlib
import functools
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.connection import wait
from typing import Any, Self

from attnbench.harness.workers.deaths import Cause, cause_of_death, oom_kills
from attnbench.harness.workers.processes import context, start_server
from attnbench.harness.workers.serving import Inheritance, serve

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
        self._limit, self._paused = time_limit_s, False
        self._log, self._log_path = tempfile.mkstemp(prefix="attnbench-", suffix=".log")
        self._oom_kills = oom_kills()
        self._pipe, theirs = multiprocessing.Pipe()
        arguments = (theirs, self._log_path, Inheritance.here())
        self._process = context().Process(target=serve, args=arguments, daemon=True)
        start_server()  # so that it does not hear Ctrl-C, whoever comes first
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

    def pause(self) -> None:
        """Stop the process and all it started until it is called again: its threads may not even spin.

        Only on Linux, where the kernel ends even a stopped process when its parent is gone; elsewhere they
        wait in their own way.
        """
        if sys.platform == "linux" and self.alive:
            self._signal(signal.SIGSTOP)
            self._paused = True

    def move_to(self, cpu: int) -> None:
        """Keep the thread that answers calls on one CPU, from its next call on; only on Linux."""
        if self._process.pid is not None and self.alive:
            with contextlib.suppress(OSError):  # it is gone, as the next call will tell
                os.sched_setaffinity(self._process.pid, {cpu})

    def close(self) -> None:
        """Kill the process and all it started; harmless if it is gone."""
        if self._process.pid is not None and self._process.exitcode is None:
            self._signal(signal.SIGKILL)
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

    def __exit__(self, *error: object) -> None:
        self.close()

    def _signal(self, number: int) -> None:
        """To the process and all it started."""
        if self._process.pid is not None:
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, number)

    def _ask(self, request: tuple[Any, tuple[Any, ...]], limit: float | None) -> Any:
        if not self.alive:
            raise WorkerDied(Cause("crashed", "its process has ended"))
        if self._paused:
            self._signal(signal.SIGCONT)
            self._paused = False
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
        return os.pread(self._log, 2**16, max(0, size - 2**16)).decode(errors="replace")


class InProcess:
    """What stands in for a worker where nothing is to be isolated: the object itself, in this process."""

    def __init__(self, factory: Callable[..., Any], *args: Any) -> None:
        self._object = factory(*args)

    def call(self, method: str, *args: Any) -> Any:
        """Call a method of the object."""
        return getattr(self._object, method)(*args)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        return None


class Workers:
    """Workers one after another: a new one after each failure, and for each room.

    Args:
        factory, args, time_limit_s: see :class:`Worker`.
        room: gives, from the arguments of a call, a name; only calls of one name, one after another, share a
            worker. By default all do.
    """

    def __init__(
        self,
        factory: Callable[..., Any],
        *args: Any,
        time_limit_s: float | None = None,
        room: Callable[..., str] = lambda *args: "",
    ) -> None:
        self._make = functools.partial(Worker, factory, *args, time_limit_s=time_limit_s)
        self._room_of = room
        self._room = ""
        self._worker: Worker | None = None

    def call(self, method: str, *args: Any) -> Any:
        """Call a method of an object that :class:`Worker` makes; raises what that raises."""
        room = self._room_of(*args)
        if room != self._room:
            self.close()
        try:
            if self._worker is None:
                self._worker, self._room = self._make(), room
            return self._worker.call(method, *args)
        except BaseException:
            self.close()  # a CUDA context may be beyond use although the process lives
            raise

    def close(self) -> None:
        """End the present worker, if there is one."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
