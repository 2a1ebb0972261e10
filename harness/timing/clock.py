"""The clocks: the device's own for the figure, the host's beside it as a witness.

On CUDA the figure is the time between two events in the stream, so that launches are not mistaken for
work. On a CPU it is ``perf_counter``. The host's clock runs round each sample, waits included: what the
device's clock says must fit inside, and fill most of it. A clock that does not wait for the device, or
whose rate is off, does not.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Protocol

import torch
from torch import Tensor

from attnbench.errors import AttnbenchError
from attnbench.harness.timing.throttle import NO_SENSORS, Reading, Sensors

Step = Callable[[], Tensor]
MIN_SAMPLE_S = 0.02
"""Shorter steps are repeated inside one sample until they take as long."""
_TICKS_PER_SAMPLE = 200  # a sample is off by at most two ticks: 1 %
_host = time.monotonic  # bound now: a mechanism that replaces time.monotonic later does not reach it


@dataclass(frozen=True)
class Sample:
    """Seconds that some steps took together, from before the first until the last has finished."""

    device_s: float
    host_s: float
    reading: Reading | None = None
    """The device's sensors while it worked, where there are any."""


class ClockError(AttnbenchError):
    """The clock that timed a candidate is not to be believed; the row is void."""


class Clock(Protocol):
    """Takes samples."""

    def __call__(self, step: Step, repeats: int) -> Sample:
        """Run a step so many times, and say how long that took."""

    def tick(self) -> float:
        """Seconds between two times that the clock can tell apart."""


class HostClock:
    """A clock for work that is done when the step returns."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now

    def __call__(self, step: Step, repeats: int) -> Sample:
        """See :class:`Clock`."""
        host = _host()
        start = self._now()
        for _ in range(repeats):
            step()
        device = self._now() - start
        return Sample(device, _host() - host)

    def tick(self) -> float:
        """See :class:`Clock`; found by looking."""
        return tick(self._now)


class CudaClock:
    """CUDA events in the current stream.

    Args:
        device: where.
        each: wait for the device after every step (latency), not only after the last.
        sensors: read while the device is at work.
    """

    def __init__(self, device: torch.device, *, each: bool = False, sensors: Sensors = NO_SENSORS) -> None:
        self._device, self._each, self._sensors = device, each, sensors

    def __call__(self, step: Step, repeats: int) -> Sample:
        """See :class:`Clock`."""
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(self._device)
        host = _host()
        begin.record()
        for _ in range(repeats):
            step()
            if self._each:
                torch.cuda.synchronize(self._device)
        end.record()
        reading = self._sensors.read()
        torch.cuda.synchronize(self._device)
        return Sample(begin.elapsed_time(end) / 1e3, _host() - host, reading)

    def tick(self) -> float:
        """Seconds: about half a microsecond, as CUDA documents its events."""
        return 1e-6


def device_clock(
    device: torch.device, *, each: bool = False, sensors: Sensors = NO_SENSORS
) -> HostClock | CudaClock:
    """The clock of a device; see :class:`CudaClock` for ``each`` and ``sensors``."""
    return CudaClock(device, each=each, sensors=sensors) if device.type == "cuda" else HostClock()


def tick(now: Callable[[], float], limit_s: float = 0.1) -> float:
    """Seconds between two values that a clock can tell apart: the least of some differences seen."""
    found: list[float] = []
    deadline, last = _host() + limit_s, now()
    while len(found) < 5 and _host() < deadline:
        value = now()
        if value > last:
            found.append(value - last)
        last = value
    return min(found, default=limit_s)


def steps_per_sample(step_s: float, tick_s: float) -> int:
    """How many steps make a sample that is long enough for the clock."""
    return max(1, round(max(MIN_SAMPLE_S, _TICKS_PER_SAMPLE * tick_s) / max(step_s, 1e-9)))


def fault(samples: Sequence[Sample]) -> str:
    """Why a clock is not to be believed; empty if nothing speaks against it.

    Samples are judged by their median, so that one interruption proves nothing; sixteen and more in four
    parts, so that a clock that drifts away shows.
    """
    parts = 4 if len(samples) >= 16 else 1
    size = max(1, -(-len(samples) // parts))
    for start in range(0, len(samples), size):
        share = median(s.device_s / s.host_s for s in samples[start : start + size])
        if share > 1.02:
            return f"the device's clock shows {share:.2f} times what passed on the host's"
        if share < 0.5:
            return f"the device's clock shows {share:.2f} of what the host waited: does it wait for the work?"
    return ""
