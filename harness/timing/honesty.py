"""After the timing: was what was timed the work? Kept answers and lessons not learnt are found here.

Source: the ways in which entries to kernel competitions have deceived their harness, on purpose or not;
see docs/measuring.md, "What is checked after the timing".
"""

from collections.abc import Iterator, Sequence
from statistics import median
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from attnbench.errors import AttnbenchError
from attnbench.harness.setting import Workload
from attnbench.harness.timing.clock import Clock

_SLOWER = 1.5
"""Steps on images never seen before may take so many times as long as those on the same again."""
_PAIRS = 11
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}


class DishonestError(AttnbenchError):
    """What was timed was not the work; the row is void."""


class Seen:
    """While entered, notes a trace of what each attention module returns."""

    def __init__(self, model: Any) -> None:
        self.attentions: Sequence[nn.Module] = model.attentions()
        self.answers: dict[int, Tensor] = {}

    def __enter__(self) -> Self:
        self._handles = [
            attention.register_forward_hook(lambda module, args, out, i=i: self._note(i, out))
            for i, attention in enumerate(self.attentions)
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()

    def _note(self, index: int, out: Any) -> None:
        self.answers[index] = _trace(out)


def check(step: Workload, before: Seen, timed: Tensor, step_s: float, clock: Clock) -> None:
    """Hold the timed steps against steps that nobody could foresee.

    Args:
        step: what was timed.
        before: traces of its first step.
        timed: what the last timed step returned.
        step_s: seconds per step that were measured.
        clock: that measured them.

    Raises:
        DishonestError: the timed answer is not that of the images it was given; or an attention module
            answers other images as it did the first; or other images take much longer than those that
            were timed; or an attention module gets no gradient.
    """
    if step.optimizer is None:
        _same(step(), timed)
    after = Seen(step.model)
    with after:
        seconds = _unforeseen(step, clock)
    stale = [i for i, answer in after.answers.items() if torch.equal(answer, before.answers[i])]
    if stale:
        raise DishonestError(f"attention module {stale[0]} gives other images the answer it gave before")
    if seconds > _SLOWER * step_s:
        _suspect(step, clock)
    if step.optimizer is not None:
        _learns(step, after.attentions)


def _suspect(step: Workload, clock: Clock) -> None:
    """A first step was slow. Chance, or the work? Compare with steps on images seen, in turn.

    An interruption slows a few of either kind; an answer that is looked up leaves no fresh step quick.
    """
    fresh, seen = zip(
        *((_unforeseen(step, clock), clock(step, 1).device_s) for _ in range(_PAIRS)), strict=True
    )
    slower = min(fresh) / median(seen)
    if slower > _SLOWER:
        raise DishonestError(
            f"a step takes {slower:.1f} times as long on images not seen before as on the same again: "
            "is an answer kept?"
        )


def _unforeseen(step: Workload, clock: Clock) -> float:
    step.refresh()
    return clock(step, 1).device_s


def _same(again: Tensor, timed: Tensor) -> None:
    again, tolerance = again.float(), _TOLERANCE.get(timed.dtype, 1e-3)
    worst = float((again - timed.float()).abs().max())
    if not worst <= tolerance * float(again.abs().max()):
        raise DishonestError(
            f"the last timed step returned another answer than the same step does ({worst:.2g} off)"
        )


def _learns(step: Workload, attentions: Sequence[nn.Module]) -> None:
    """Every attention module with weights gets a gradient; stochastic depth leaves it out of some steps."""
    waiting = {i: module for i, module in enumerate(attentions) if list(_trained(module))}
    for _ in range(_PAIRS):
        waiting = {i: module for i, module in waiting.items() if not _has_gradient(module)}
        if not waiting:
            return
        step()
    raise DishonestError(f"attention module {min(waiting)} gets no gradient in training")


def _trained(module: nn.Module) -> Iterator[nn.Parameter]:
    return (p for p in module.parameters() if p.requires_grad)


def _has_gradient(module: nn.Module) -> bool:
    return any(p.grad is not None and bool(p.grad.any()) for p in _trained(module))


def _trace(tensor: Any) -> Tensor:
    """A few numbers that tell a tensor's value from another, copied; cheap whatever its size."""
    flat = tensor.detach().flatten()
    return flat[:: max(1, flat.numel() // 64)].float().clone()
