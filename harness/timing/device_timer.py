"""A timer whose readings are the device's time, in the form pytest-benchmark asks for: seconds, at a call.

pytest-benchmark reads a timer before and after what it measures. On a GPU the host's clock would show how
long the launches took. Here a reading first waits until all work that was launched has finished and is the
GPU's own time of that moment, so the difference of two readings is the time of the work between them.
"""

import time
from collections.abc import Callable
from typing import Any, Protocol

import torch


class Events(Protocol):
    """A device that can mark moments."""

    def mark(self) -> Any:
        """Mark the moment when all work launched so far has finished, and wait for it."""

    def between(self, earlier: Any, later: Any) -> float:
        """Seconds between two marks, on the device's clock."""


class CudaEvents:
    """The current stream of the current CUDA device."""

    def mark(self) -> torch.cuda.Event:
        """See :class:`Events`."""
        torch.cuda.synchronize()  # other streams too
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        event.synchronize()
        return event

    def between(self, earlier: torch.cuda.Event, later: torch.cuda.Event) -> float:
        """See :class:`Events`."""
        return earlier.elapsed_time(later) / 1e3


class DeviceTimer:
    """Seconds since the first reading, on the device's clock.

    CUDA tells the time between two events in 32 bits, which is too coarse over hours; so the time of each
    reading is added to the one before.
    """

    def __init__(self, events: Events) -> None:
        self.events = events
        self._last: Any = None
        self._seconds = 0.0

    def __call__(self) -> float:
        mark = self.events.mark()
        if self._last is not None:
            self._seconds += self.events.between(self._last, mark)
        self._last = mark
        return self._seconds


def make() -> tuple[Callable[[], float], str]:
    """The timer of this machine, and what it is: CUDA events where there is CUDA, else ``perf_counter``."""
    if torch.cuda.is_available():
        return DeviceTimer(CudaEvents()), "CUDA events"
    return time.perf_counter, "perf_counter"
