"""Candidates of a throughput group: each a session in a process of its own, all alive, asked in turn.

On a CPU a candidate that waits is stopped, threads and all: after its last operator they would spin for a
while, as torch's do for every user, and what is timed next would pay for it. So each has the machine to
itself under the waiting policy that the user has. Times are taken where the work is; pipe and stop are not
in them.
"""

import contextlib
from typing import Any, Self

import torch

from attnbench.harness.run.plan import Request
from attnbench.harness.setting import Flags
from attnbench.harness.timing.clock import Sample
from attnbench.harness.timing.replay import Replay
from attnbench.harness.timing.session import Candidate, Prepared, Session, Sessions
from attnbench.harness.timing.warmup import Cap
from attnbench.harness.workers.isolation import Worker, WorkerError
from attnbench.record import Cell


class Candidates:
    """Makes the candidates of a request and ends their processes when it is done.

    Args:
        request: says whether they live in processes of their own, and how long one may take to answer.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self._remote: list[RemoteSession] = []
        self._sessions = Sessions(self._make)

    def open(self, cell: Cell) -> Candidate:
        """The candidate of a cell; those that differ in mode, precision and batch only share a process."""
        return self._sessions.open(cell)

    def renew(self) -> None:
        """End all processes; what is opened next lives in new ones."""
        for session in self._remote:
            session.end()
        self._remote.clear()
        self._sessions = Sessions(self._make)

    def _make(self, cell: Cell) -> Candidate:
        if self._request.in_process:
            return Session(cell, self._request.device)
        self._remote.append(RemoteSession(cell, self._request))
        return self._remote[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.renew()


class RemoteSession:
    """A :class:`Session` behind a worker. A failure ends its process; ``prepare`` starts another."""

    def __init__(self, cell: Cell, request: Request) -> None:
        self._cell, self._request = cell, request
        self._stops = request.device.type == "cpu"  # a GPU's driver has threads that are not ours to stop
        self._worker: Worker | None = None

    def prepare(self, cell: Cell, cap: Cap) -> Prepared:
        """See :meth:`Session.prepare`."""
        if self._worker is None:
            request = self._request
            self._worker = Worker(
                start_session, self._cell, request.device, request.flags, time_limit_s=request.limit_s
            )
        return self._ask("prepare", cell, cap)

    def sample(self, repeats: int) -> Sample:
        """See :meth:`Session.sample`."""
        return self._ask("sample", repeats)

    def verify(self, step_s: float) -> None:
        """See :meth:`Session.verify`."""
        self._ask("verify", step_s)

    def replay(self, repeats: int, pairs: int) -> Replay:
        """See :meth:`Session.replay`."""
        return self._ask("replay", repeats, pairs)

    def peak(self, precision: str) -> float:
        """See :meth:`Session.peak`."""
        return self._ask("peak", precision)

    def close(self) -> None:
        """Let go of the step; the process and its model stay for another cell."""
        if self._worker is not None:
            with contextlib.suppress(WorkerError):
                self._ask("close")

    def end(self) -> None:
        """End the process."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def _ask(self, method: str, *args: Any) -> Any:
        if self._worker is None:
            raise RuntimeError("prepare() comes first")
        try:
            answer = self._worker.call(method, *args)
        except WorkerError:
            self.end()  # it may be dead, or its CUDA context beyond use
            raise
        if self._stops:
            self._worker.pause()
        return answer


def start_session(cell: Cell, device: torch.device, flags: Flags) -> Session:
    """What a worker holds."""
    flags.apply()
    return Session(cell, device)
