"""One model under examination: its operators, recorded once, and rounds that time its step in three ways."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from attnbench.harness.explain.account import Account, Timed, mean
from attnbench.harness.explain.ceilings import Ceilings
from attnbench.harness.explain.phases import Places
from attnbench.harness.explain.recorder import Operator, record
from attnbench.harness.explain.timeline import Timeline, profiled
from attnbench.harness.models.backbone import executed_impl
from attnbench.harness.models.build import build
from attnbench.harness.setting import Setting, make_step
from attnbench.record import Cell

_WARM_UP = 2


@dataclass
class Subject:
    """A model with its step, operators and the samples taken of it.

    Args:
        cell: what was built.
        model: the model.
        step: runs one step.
        operators: of one step, in order.
        device: where it runs.
        plain_s: seconds of steps that nothing watches.
        blocks_s: forward seconds of each block, in steps that watch only that.
        timelines: profiled steps.
    """

    cell: Cell
    model: Any
    step: Callable[[], Tensor]
    operators: list[Operator]
    device: torch.device
    plain_s: list[float] = field(default_factory=list)
    blocks_s: list[list[float]] = field(default_factory=list)
    timelines: list[Timeline] = field(default_factory=list)

    @classmethod
    def prepare(cls, cell: Cell, setting: Setting) -> "Subject":
        """Build the model, warm it up and record its operators.

        Raises:
            AttnbenchError: it cannot be built, or its operators cannot be told apart.
        """
        model = build(cell)
        step = make_step(model, model.layout, setting)
        for _ in range(_WARM_UP):
            step()
        return cls(cell, model, step, record(step, model), setting.device)

    @property
    def implementation(self) -> str:
        """What really runs."""
        return executed_impl(self.model)

    def round(self) -> None:
        """One sample of each kind, after a step that only warms the caches."""
        self.step()
        self.plain_s.append(_timed(self.step, self.device))
        self.blocks_s.append(_blocks(self.step, Places(self.model).modules(self.model), self.device))
        names = [operator.name for operator in self.operators]
        self.timelines.append(profiled(self.step, names, self.device))

    def account(self, ceilings: Ceilings, event_s: float) -> Account:
        """The quickest quarter of the profiled steps, averaged, less what the profiler itself took.

        That is what a profiled step takes longer than one that nothing watches, spread evenly over its
        events, but at most ``event_s`` for each: more would explain noise away.

        Args:
            ceilings: of the device.
            event_s: seconds that the profiler takes for one event on the host.
        """
        chosen = self._chosen()
        event_s = self._of_event(event_s)
        busy, gap = mean([t.busy for t in chosen]), mean([t.gap for t in chosen])
        times = _less(busy, gap, chosen[0], event_s)
        timed = [
            Timed(operator, *its, launches)
            for operator, its, launches in zip(self.operators, times, chosen[0].launches, strict=True)
        ]
        return Account(timed, ceilings, mean([[t.tail] for t in chosen])[0])

    def rounds(self, event_s: float) -> list[list[float]]:
        """Seconds of every operator in each profiled step, less what the profiler took as in the account."""
        event_s = self._of_event(event_s)
        return [[sum(its) for its in _less(t.busy, t.gap, t, event_s)] for t in self.timelines]

    def _chosen(self) -> list[Timeline]:
        return _quickest(self.timelines, [timeline.total for timeline in self.timelines])

    def _of_event(self, most: float) -> float:
        """Seconds that the profiler took for one event of this step, at most ``most``."""
        chosen = self._chosen()
        longer = mean([[t.total] for t in chosen])[0] - self.step_s()
        return min(most, max(longer, 0.0) / max(sum(chosen[0].inside) + sum(chosen[0].between), 1))

    def step_s(self) -> float:
        """Seconds of a step that nothing watches: the mean of the quickest quarter."""
        return mean([[s] for s in _quickest(self.plain_s, self.plain_s)])[0]

    def block_s(self) -> list[float]:
        """Forward seconds of each block, watched from outside: the mean of the quickest quarter."""
        return mean(_quickest(self.blocks_s, [sum(sample) for sample in self.blocks_s]))


def event_cost(device: torch.device, calls: int = 2000) -> float:
    """Seconds that the profiler adds to an operator without children, on the host."""
    x = torch.zeros(1)

    def many() -> Tensor:
        for _ in range(calls):
            x.add_(1)
        return x

    cpu = torch.device("cpu")
    plain, watched = [], []
    for _ in range(4):
        plain.append(_timed(many, cpu))
        watched.append(profiled(many, ["aten::add_"] * calls, cpu).total)
    return max(min(watched) - min(plain), 0.0) / calls


def _less(
    busy: Sequence[float], gap: Sequence[float], known: Timeline, event_s: float
) -> list[tuple[float, float]]:
    """Seconds in and before each operator, without the profiler's own."""
    return [
        (max(b - event_s * inside, 0.0), max(g - event_s * between, 0.0))
        for b, g, inside, between in zip(busy, gap, known.inside, known.between, strict=True)
    ]


def _quickest(samples: list[Any], by: list[float]) -> list[Any]:
    """The quarter of the samples that took least: what disturbs a step only ever makes it longer."""
    order = sorted(range(len(samples)), key=lambda index: by[index])
    return [samples[index] for index in order[: (len(samples) + 3) // 4]]


def _timed(step: Callable[[], Tensor], device: torch.device) -> float:
    """Seconds of a step on the device's clock."""
    marks = [_Mark(device), _Mark(device)]
    marks[0].set()
    step()
    marks[1].set()
    return marks[0].until(marks[1])


def _blocks(step: Callable[[], Tensor], blocks: list[nn.Module], device: torch.device) -> list[float]:
    marks = [(_Mark(device), _Mark(device)) for _ in blocks]
    with ExitStack() as hooks:
        for block, (begin, end) in zip(blocks, marks, strict=True):
            hooks.callback(block.register_forward_pre_hook(begin.set).remove)
            hooks.callback(block.register_forward_hook(end.set).remove)
        step()
    return [begin.until(end) for begin, end in marks]


class _Mark:
    """A moment: a CUDA event, or the time on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.event = torch.cuda.Event(enable_timing=True) if device.type == "cuda" else None
        self.time = 0.0

    def set(self, *_: Any) -> None:
        if self.event is not None:
            self.event.record()
        else:
            self.time = time.perf_counter()

    def until(self, later: "_Mark") -> float:
        if self.event is None or later.event is None:
            return later.time - self.time
        torch.cuda.synchronize(self.device)
        return self.event.elapsed_time(later.event) / 1e3
