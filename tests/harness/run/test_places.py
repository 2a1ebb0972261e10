"""Where candidates live: on the same CPU in a block, on another in the next; no two heaps or pages alike."""

import mmap
import os
import platform
import sys
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from attnbench.harness import environment
from attnbench.harness.addresses import ScatteredPages
from attnbench.harness.run import candidates
from attnbench.harness.setting import Flags
from attnbench.harness.timing.session import Session
from attnbench.harness.timing.warmup import Cap
from attnbench.harness.workers.isolation import Worker
from attnbench.record import Cell

CPU = torch.device("cpu")


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system places processes alone")
def test_candidates_take_the_same_cpus_in_turn() -> None:
    allowed = sorted(os.sched_getaffinity(0))
    places = candidates._Places(CPU, 1)
    with Worker(import_module, "os") as first, Worker(import_module, "os") as second:
        seen = []
        for _ in range(4):
            for worker in (first, second):
                places.move(worker)
                seen.append(worker.call("sched_getaffinity", 0))
    expected = [{allowed[turn % len(allowed)]} for turn in range(4)]
    assert seen[::2] == seen[1::2] == expected


def test_after_a_failure_all_begin_again_together() -> None:
    places = candidates._Places(CPU, 1)
    moved: list[int] = []

    class Moved:
        def move_to(self, cpu: int) -> None:
            moved.append(cpu)

    one, other = Moved(), Moved()
    places.move(one)  # type: ignore[arg-type]
    places.start_over()  # the other's turn in this block never came
    moved.clear()
    for _ in range(3):
        places.move(one)  # type: ignore[arg-type]
        places.move(other)  # type: ignore[arg-type]
    assert moved[::2] == moved[1::2]


def test_who_joins_later_is_where_the_others_are(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[int] = []

    class Fake:
        def __init__(self, *args: Any, **options: Any) -> None: ...

        def call(self, method: str, *args: Any) -> None: ...

        def pause(self) -> None: ...

        def move_to(self, cpu: int) -> None:
            moved.append(cpu)

    monkeypatch.setattr(candidates, "Worker", Fake)
    request, cell, cap = (
        SimpleNamespace(device=CPU, flags=Flags(threads=1), limit_s=1.0),
        Cell(mechanism="full", layout="swin_pico", metric="throughput", resolution=28),
        Cap(0.1),
    )
    places = candidates._Places(CPU, 1)
    one, other = (candidates.RemoteSession(cell, request, places) for _ in range(2))  # type: ignore[arg-type]
    one.prepare(cell, cap)
    one.sample(1)  # of a group that the other is not in
    for session in (one, other):
        session.prepare(cell, cap)
    moved.clear()
    for _ in range(3):
        one.sample(1)
        other.sample(1)
    assert moved[::2] == moved[1::2]


def test_more_threads_and_other_devices_are_left_where_they_are() -> None:
    class Fixed:
        def move_to(self, cpu: int) -> None:
            pytest.fail(f"moved to {cpu}")

    for device, threads in ((CPU, 2), (torch.device("cuda"), 1)):
        candidates._Places(device, threads).move(Fixed())  # type: ignore[arg-type]


WHERE = "__import__('types').SimpleNamespace(at=lambda: weights)"
"""An object that tells where the largest parameter of a candidate lies."""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is pinned with glibc alone")
def test_each_process_has_a_layout_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are forked from one server: without doing anything they would all have the same."""
    cell = Cell(mechanism="full", layout="swin_pico", metric="throughput", resolution=28)
    largest = "max((p.numel(), p.data_ptr()) for p in candidate(cell, device, flags)._model.parameters())[1]"
    names = {"candidate": candidates.start_session, "cell": cell, "device": CPU, "flags": Flags(threads=1)}
    monkeypatch.setattr(environment, "_pinned", {"mmap_max": 0})  # so that they pin theirs, and not this one
    found = []
    for _ in range(4):
        code = f"(lambda weights: {WHERE})({largest})"
        with Worker(eval, code, names) as process:
            found.append(process.call("at"))
    assert len(set(found[1:])) > 1  # the first imports what the others find imported, and so differs anyhow


@pytest.mark.skipif(sys.platform != "linux", reason="memory is given back in parts on Linux alone")
def test_half_of_an_area_is_given_back_and_not_the_same_half_twice() -> None:
    both = ScatteredPages(), ScatteredPages()
    held = [pages._area[:: mmap.PAGESIZE] for pages in both if pages._area is not None]
    assert [one.count(1) / len(one) for one in held] == [0.5, 0.5]  # what was given back reads 0
    assert held[0] != held[1]
    for pages in both:
        pages.release()
        pages.release()
        assert pages._area is None


@pytest.mark.skipif(sys.platform != "linux", reason="memory is given back in parts on Linux alone")
@pytest.mark.parametrize("fails", [False, True])
def test_pages_are_scattered_until_a_candidate_is_warm(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    cell = Cell(mechanism="full", layout="swin_pico", metric="throughput", resolution=28)
    seen = []

    def prepare(session: candidates.PlacedSession, cell: Cell, cap: Cap) -> None:
        assert session._pages is not None
        seen.append(session._pages._area is not None)
        if fails:
            raise RuntimeError("by design")

    monkeypatch.setattr(Session, "prepare", prepare)
    session = candidates.start_session(cell, CPU, Flags())
    for _ in range(2):
        try:
            session.prepare(cell, Cap(0.1))
        except RuntimeError:
            assert fails
    assert seen == [True, False]
