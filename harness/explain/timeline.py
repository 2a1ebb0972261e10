"""The time of every recorded operator, from one profiled step.

torch's profiler tells when each operator began and ended, and on CUDA when each kernel did. Its events are
matched, in order and by name, with the operators that the recorder saw in an earlier step.
On a CPU an operator is *busy* from its begin to its end, and the *gap* before it is the time of Python and
torch's dispatcher. On CUDA both are the device's: busy while the operator's kernels run, and the gap
before them is idle, since nothing had been launched.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attnbench.errors import AttnbenchError

_MARK = "attnbench::step"


class Event(NamedTuple):
    """One event of the profiler; times in nanoseconds."""

    name: str
    start: int
    end: int
    thread: int
    id: int
    kernel: bool = False
    """It ran on the device, launched by the operator event whose number is ``id``."""


@dataclass
class Timeline:
    """Seconds by operator, in the recorder's order.

    Args:
        busy: in the operator.
        gap: before it, after the operator that went before.
        launches: kernels on CUDA; 1 on a CPU.
        inside: profiler events inside an operator, besides itself: each costs a little time of its own.
        between: profiler events in the gap before it (views, nodes of autograd), its own begin included.
        total: of the step, from its first to its last moment on the device's clock.
        tail: of the step, after the last operator.
    """

    busy: list[float]
    gap: list[float]
    launches: list[int]
    inside: list[int]
    between: list[int]
    total: float = 0.0
    tail: float = field(default=0.0)


def profiled(step: Callable[[], Tensor], names: Sequence[str], device: torch.device) -> Timeline:
    """Run a step under the profiler, after one that warms up what starting the profiler has left cold.

    Args:
        step: the step whose operators were recorded.
        names: their names, in order.
        device: where it runs.

    Raises:
        AttnbenchError: the step ran other operators than these.
    """
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities, acc_events=True) as profiler:
        step()
        _finish(device)
        with torch.profiler.record_function(_MARK):
            step()
        _finish(device)
    results = profiler.profiler.kineto_results if profiler.profiler else None
    if results is None:
        raise RuntimeError("torch's profiler returned no events")
    return timeline(filter(None, map(_event, results.events())), names)


def timeline(events: Iterable[Event], names: Sequence[str]) -> Timeline:
    """Match the events of the marked step with the operators it is known to run; see :func:`profiled`."""
    events = sorted(events, key=lambda event: (event.start, -event.end))
    mark = next(event for event in events if event.name == _MARK and not event.kernel)
    on_host = [event for event in events if not event.kernel and mark.start < event.start < mark.end]
    launched = {event.id for event in on_host}
    kernels = [event for event in events if event.kernel and event.id in launched]
    match = _match(on_host, names)
    if kernels:
        return _on_device(kernels, match.owners, len(names))
    ones = [1] * len(names)
    result = Timeline([], [], ones, match.inside, match.between, total=(mark.end - mark.start) / 1e9)
    before = mark.start
    for start, end in match.spans:
        result.gap.append(max(start - before, 0) / 1e9)
        result.busy.append((end - max(start, before)) / 1e9)
        before = max(before, end)
    result.tail = (mark.end - before) / 1e9
    return result


@dataclass
class _Match:
    """Recorded operators found among events: begin and end of each, and the number of each event in one."""

    spans: list[tuple[int, int]] = field(default_factory=list)
    owners: dict[int, int] = field(default_factory=dict)
    inside: list[int] = field(default_factory=list)
    between: list[int] = field(default_factory=list)


def _match(events: list[Event], names: Sequence[str]) -> _Match:
    plain = [_plain(name) for name in names]
    wanted = set(plain)
    match = _Match()
    running: dict[int, tuple[int, int]] = {}  # by thread: end and index of the operator
    others = 0
    for event in events:
        end, index = running.get(event.thread, (0, -1))
        if event.start < end:
            match.inside[index] += 1
        else:
            others += 1
            name = _plain(event.name)
            if name not in wanted:
                continue
            index = len(match.spans)
            if index == len(names) or plain[index] != name:
                raise _differs(index, names, event.name)
            match.spans.append((event.start, event.end))
            match.inside.append(0)
            match.between.append(others)
            others = 0
            running[event.thread] = (event.end, index)
        match.owners[event.id] = index
    if len(match.spans) < len(names):
        raise _differs(len(match.spans), names, "nothing")
    return match


def _on_device(kernels: list[Event], owners: dict[int, int], n: int) -> Timeline:
    none = [0] * n  # the profiler's cost is the host's
    result = Timeline([0.0] * n, [0.0] * n, [0] * n, none, none)
    before = kernels[0].start
    for kernel in kernels:
        index = owners.get(kernel.id)
        busy = max(kernel.end - max(kernel.start, before), 0) / 1e9
        gap = max(kernel.start - before, 0) / 1e9
        before = max(before, kernel.end)
        if index is None:  # launched by something that was not recorded
            result.tail += busy + gap
            continue
        result.busy[index] += busy
        result.gap[index] += gap
        result.launches[index] += 1
    result.total = (before - kernels[0].start) / 1e9
    return result


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _plain(name: str) -> str:
    """A name as it is compared.

    Where a dispatch mode is active, as it was when the names were recorded, autograd and ``linear`` do out of
    place what they otherwise do in place.
    """
    return name.replace("::_index_put_impl_", "::index_put_").rstrip("_")


def _event(event: Any) -> Event | None:
    """An event of the profiler as we need it; ``None`` for one that is neither an operator nor a kernel.

    An operator is not linked to another event. What is linked to one is a kernel, if it is on the device and
    not the shadow that an annotation throws there; or the call of CUDA's runtime that launched it.
    """
    device, linked = event.device_type().name != "CPU", event.linked_correlation_id()
    if device == (not linked) or (device and event.is_user_annotation()):
        return None
    number = linked if device else event.correlation_id()
    return Event(event.name(), event.start_ns(), event.end_ns(), event.start_thread_id(), number, device)


def _differs(index: int, names: Sequence[str], found: str) -> AttnbenchError:
    expected = names[index] if index < len(names) else "nothing"
    return AttnbenchError(
        f"two steps ran different operators: as number {index + 1} {expected} was expected, {found} came; "
        "compiled code and data-dependent control flow cannot be explained: choose another --impl"
    )
