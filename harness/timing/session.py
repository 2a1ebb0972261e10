"""One candidate, alive and ready: what is asked of it between the beginning and the end of a measurement.

A session may live in this process or behind a :class:`attnbench.harness.workers.isolation.Worker`; all it
takes and returns can be pickled.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from attnbench.harness import environment, memory
from attnbench.harness.models.backbone import executed_impl
from attnbench.harness.models.build import Model, build
from attnbench.harness.setting import Setting, Workload
from attnbench.harness.timing import honesty, plausible, regimes, replay
from attnbench.harness.timing.clock import Clock, Sample, device_clock, steps_per_sample
from attnbench.harness.timing.throttle import sensors_of
from attnbench.harness.timing.warmup import Cap, WarmUp, warm_up
from attnbench.record import Cell


@dataclass(frozen=True)
class Prepared:
    """What a session knows of itself before it is timed.

    Args:
        implementation: what runs.
        batch_size: images per step.
        repeats: steps per sample.
        warmup: how it went.
        sensors: why the device's sensors are not read; empty if they are.
    """

    implementation: str
    batch_size: int
    repeats: int
    warmup: WarmUp
    sensors: str


_FREE = {"cuda": 0.25, "cpu": 0.1}
"""Share of the memory that candidates leave to one another between samples."""

_LEAD_S = 5.0
"""A step pays for a cold start, after others have run: in training 20 to 100 ms of 300 (docs/measuring.md).
Of steps longer than this it is too small a share to be worth another step."""


class Candidate(Protocol):
    """What the timing loop asks of a session, wherever it lives."""

    def prepare(self, cell: Cell, cap: Cap) -> Prepared:
        """Build the step of a cell and warm it up."""

    def sample(self, repeats: int) -> Sample:
        """Time some steps on images not seen before."""

    def verify(self, step_s: float) -> None:
        """Raise if what was timed was not the work."""

    def least_macs(self, cell: Cell, batch: int) -> int | None:
        """Multiply-adds that a step cannot do without; None if there is no formula."""

    def replay(self, repeats: int, pairs: int) -> replay.Replay:
        """Compare steps with their replay as one CUDA graph."""

    def peak(self, precision: str) -> float:
        """Multiply-adds per second of the device at its best."""

    def close(self) -> None:
        """Let go of everything."""


class Session:
    """A candidate in this process.

    Args:
        cell: what to build. Cells that differ from it in mode, precision and batch only can be prepared.
        device: where.
        clock: in place of the device's own, for tests.

    Raises:
        AttnbenchError: the model cannot be built.
    """

    def __init__(self, cell: Cell, device: torch.device, clock: Clock | None = None) -> None:
        self._device, self._given_clock = device, clock
        if device.type == "cuda":
            torch.cuda.set_device(device)  # events and graphs are of the current device
        self._model: Model = build(cell)
        self._step: Workload | None = None
        self._last = torch.empty(0)
        self._cold = False
        self._fastest_s = 0.0

    def prepare(self, cell: Cell, cap: Cap) -> Prepared:
        """Build the step of a cell and run it until its times settle.

        Raises:
            FloatingPointError: the step returns a value that is not finite.
        """
        self._model.zero_grad(set_to_none=True)
        sensors, no_sensors = sensors_of(self._device)
        each = cell.regime == "latency"
        self._clock: Clock = self._given_clock or device_clock(self._device, each=each, sensors=sensors)
        batch = self._largest(cell) if cell.regime == "largest" else cell.batch_size
        self._step = self._work(cell, batch)
        self._seen = honesty.Seen(self._model)
        began = time.monotonic()
        with self._seen:
            seconds = [self._timed(1).device_s]
        if not bool(torch.isfinite(self._last).all()):
            raise FloatingPointError("the step returns values that are not finite")
        spent = time.monotonic() - began
        while len(seconds) < 4 and spent + seconds[-1] < cap.seconds:  # the first allocates and compiles
            seconds.append(self._timed(1).device_s)
            spent += seconds[-1]
        repeats = steps_per_sample(min(seconds), self._clock.tick())
        self._fastest_s = min(seconds)
        warmup = warm_up(lambda: self.sample(repeats).device_s, cap, spent)
        ran = executed_impl(self._model, self._setting(cell, batch))
        return Prepared(ran, batch, repeats, warmup, no_sensors)

    def sample(self, repeats: int) -> Sample:
        """Time some steps on images that were not seen before; making them is not timed.

        On a CPU a step on the images before goes first, untimed: others have run since, and a loop that runs
        this model alone would find its threads awake and its caches full.
        """
        step = self._workload
        leads = self._device.type == "cpu" and self._fastest_s < _LEAD_S
        if self._cold or leads:
            step.draw()
            step()  # also allocates anew what was given back after the last sample
            step.show()
        else:
            step.refresh()
        sample = self._timed(repeats)
        self._fastest_s = min(self._fastest_s, sample.device_s / repeats)
        self._cold = self._give_back()
        return sample

    def verify(self, step_s: float) -> None:
        """Check after the timing that what was timed was the work.

        Args:
            step_s: seconds per step that were measured.

        Raises:
            DishonestError: an answer was kept, or the backward pass was left out.
        """
        honesty.check(self._workload, self._seen, self._last, step_s, self._clock)

    def least_macs(self, cell: Cell, batch: int) -> int | None:
        """See :func:`attnbench.harness.timing.plausible.least_macs`; it takes longer than a short warm-up."""
        return plausible.least_macs(self._model, cell, batch)

    def replay(self, repeats: int, pairs: int) -> replay.Replay:
        """See :func:`attnbench.harness.timing.replay.compare`."""
        return replay.compare(self._workload, self._device, repeats, pairs)

    def peak(self, precision: str) -> float:
        """See :func:`attnbench.harness.timing.plausible.peak_macs_per_s`."""
        return plausible.peak_macs_per_s(self._device, precision)

    def close(self) -> None:
        """Drop the step and what it keeps; the model stays for another cell."""
        self._step, self._last = None, torch.empty(0)
        self._model.zero_grad(set_to_none=True)

    def _work(self, cell: Cell, batch: int) -> Workload:
        return Workload(self._model, self._model.layout, self._setting(cell, batch))

    def _setting(self, cell: Cell, batch: int) -> Setting:
        return Setting(self._device, cell.mode, cell.precision, batch, cell.resolution, cell.seed)

    def _largest(self, cell: Cell) -> int:
        """The largest batch that fits: tried on a GPU, reckoned on a CPU, where a trial might kill."""
        if self._device.type == "cpu":
            one, two = (self._peak_bytes(cell, batch) for batch in (1, 2))
            limit = regimes.cpu_limit(one, two, regimes.memory()[0])
            return regimes.largest_batch(lambda batch: batch <= limit, regimes.LIMIT["cpu"])
        return regimes.largest_batch(lambda batch: self._fits(cell, batch), regimes.LIMIT["cuda"])

    def _peak_bytes(self, cell: Cell, batch: int) -> int:
        work = self._work(cell, batch)
        return memory.measure(work, self._model, self._device, work.images.nbytes).peak

    def _fits(self, cell: Cell, batch: int) -> bool:
        work: Workload | None = None
        try:
            work = self._work(cell, batch)
            for _ in range(2):  # the second has the optimiser's state
                work()
            torch.cuda.synchronize(self._device)
        except Exception as error:
            if not regimes.ran_out(error):
                raise
            return False
        finally:
            work = None
            self._model.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
        return True

    def _give_back(self) -> bool:
        """Free what is kept for the next step where memory is nearly full: other candidates need it now."""
        on_cuda = self._device.type == "cuda"
        free, total = torch.cuda.mem_get_info(self._device) if on_cuda else regimes.memory()
        if free >= _FREE[self._device.type] * total:
            return False
        if on_cuda:
            torch.cuda.empty_cache()
        else:
            environment.trim_allocator()
        return True

    @property
    def _workload(self) -> Workload:
        if self._step is None:
            raise RuntimeError("prepare() comes first")
        return self._step

    def _timed(self, repeats: int) -> Sample:
        step = self._workload

        def kept() -> Tensor:
            self._last = step()
            return self._last

        return self._clock(kept, repeats)


class Sessions:
    """Candidates kept for cells that differ in mode, precision and batch only: building a model is slow.

    Args:
        make: builds the candidate of a cell.
    """

    def __init__(self, make: Callable[[Cell], Candidate]) -> None:
        self._make, self._kept = make, dict[str, Candidate]()

    def open(self, cell: Cell) -> Candidate:
        """The candidate of a cell, built now or before."""
        same = cell.model_copy(update={"mode": "", "precision": "", "batch_size": 1, "regime": ""}).key()
        if same not in self._kept:
            self._kept[same] = self._make(cell)
        return self._kept[same]
