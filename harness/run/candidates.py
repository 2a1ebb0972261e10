"""Candidates of a throughput group: each a session in a process of its own, all alive, asked in turn.

On a CPU a candidate that waits is stopped, threads and all: after its last operator they would spin for a
while, as torch's do for every user, and what is timed next would pay for it. So each has the machine to
itself under the waiting policy that the user has. Times are taken where the work is; pipe and stop are not
in them.
"""

import contextlib
import os
from collections import Counter
from typing import Any, Self

import torch

from attnbench.harness import addresses
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
        self._places = _Places(request.device, request.flags.threads)
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
        self._remote.append(RemoteSession(cell, self._request, self._places))
        return self._remote[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.renew()


class RemoteSession:
    """A :class:`Session` behind a worker. A failure ends its process; ``prepare`` starts another."""

    def __init__(self, cell: Cell, request: Request, places: "_Places") -> None:
        self._cell, self._request = cell, request
        self._stops = request.device.type == "cpu"  # a GPU's driver has threads that are not ours to stop
        self._worker: Worker | None = None
        self._places = places

    def prepare(self, cell: Cell, cap: Cap) -> Prepared:
        """See :meth:`Session.prepare`."""
        if self._worker is None:
            request = self._request
            self._worker = Worker(
                start_session, self._cell, request.device, request.flags, time_limit_s=request.limit_s
            )
        self._places.start_over()  # who is prepared together is sampled together, from the first place on
        return self._ask("prepare", cell, cap)

    def sample(self, repeats: int) -> Sample:
        """See :meth:`Session.sample`; on the next of the CPUs, if there is one thread."""
        if self._worker is not None:
            self._places.move(self._worker)
        return self._ask("sample", repeats)

    def verify(self, step_s: float) -> None:
        """See :meth:`Session.verify`."""
        self._ask("verify", step_s)

    def least_macs(self, cell: Cell, batch: int) -> int | None:
        """See :meth:`Session.least_macs`."""
        return self._ask("least_macs", cell, batch)

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
            self._places.start_over()
            self.end()  # it may be dead, or its CUDA context beyond use
            raise
        if self._stops:
            self._worker.pause()
        return answer


class _Places:
    """The CPUs in turn for a single thread; none where there are more, or where the system does not ask.

    A process tends to stay where it was first put, the first of two here and the second there, and CPUs are
    not alike: one of them hears the interrupts. So all candidates take the same one in a block, and another
    in the next.
    """

    def __init__(self, device: torch.device, threads: int | None) -> None:
        single = (threads or torch.get_num_threads()) == 1
        here = device.type == "cpu" and single and hasattr(os, "sched_getaffinity")
        self._cpus = sorted(os.sched_getaffinity(0)) if here else []
        self._samples: Counter[int] = Counter()

    def move(self, worker: Worker) -> None:
        """Put a worker where its next sample is to be taken."""
        if self._cpus:
            worker.move_to(self._cpus[self._samples[id(worker)] % len(self._cpus)])
            self._samples[id(worker)] += 1

    def start_over(self) -> None:
        """All at the first again: others take part now, or a block was broken off that some had a turn in."""
        self._samples.clear()


class PlacedSession(Session):
    """A session whose memory lies at a place drawn for it, on a CPU also its pages: its weights, and what
    the steps of its first warm-up allocate.
    """

    def __init__(self, cell: Cell, device: torch.device) -> None:
        addresses.shift_heap()
        self._pages = addresses.ScatteredPages() if device.type == "cpu" else None
        super().__init__(cell, device)

    def prepare(self, cell: Cell, cap: Cap) -> Prepared:
        """See :meth:`Session.prepare`."""
        try:
            return super().prepare(cell, cap)
        finally:
            if self._pages is not None:
                self._pages.release()


def start_session(cell: Cell, device: torch.device, flags: Flags) -> Session:
    """What a worker holds."""
    flags.apply()
    return PlacedSession(cell, device)
