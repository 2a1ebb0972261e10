"""Throughput in images per second: candidates interleaved in blocks, on the device's own clock.

One block takes one sample of every candidate in a random order, so that drift of the machine falls on
all alike. Blocks are the unit of everything: they are written as soon as they are done, resumed after a
kill, and never mixed with blocks of other candidates.
"""

import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import median, quantiles

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

Step = Callable[[], Tensor]
Clock = Callable[[Step, int], float]
"""Seconds that a number of steps take, from before the first to after the last has finished."""

MIN_SAMPLE_S = 0.02
"""Steps shorter than this are repeated inside one sample."""


class Block(BaseModel):
    """One round: seconds per step of every candidate, by the key of its cell."""

    model_config = ConfigDict(extra="forbid")

    schema_version: int = 1
    group: str
    """Identifies the set of candidates and the conditions; blocks of other groups are not comparable."""
    seconds: dict[str, float]


@dataclass(frozen=True)
class Effort:
    """When to stop: after ``budget_s`` seconds, with ``min_blocks`` to ``max_blocks`` blocks."""

    warmup: int
    min_blocks: int
    max_blocks: int
    budget_s: float


def device_clock(device: torch.device) -> Clock:
    """CUDA events on a GPU (device time), ``perf_counter`` on a CPU."""

    def cuda(step: Step, repeats: int) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        start.record()
        for _ in range(repeats):
            step()
        end.record()
        torch.cuda.synchronize(device)
        return start.elapsed_time(end) / 1e3

    def cpu(step: Step, repeats: int) -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            step()
        return time.perf_counter() - start

    return cuda if device.type == "cuda" else cpu


def warm_up(step: Step, clock: Clock, times: int) -> int:
    """Run a step a few times and return how many of it make one sample of at least MIN_SAMPLE_S.

    Raises:
        FloatingPointError: the step returns a value that is not finite.
    """
    seen: list[Tensor] = []

    def watched() -> Tensor:
        seen[:] = [step()]
        return seen[0]

    last = 0.0
    for _ in range(max(times, 1)):
        last = clock(watched, 1)
    if not all(bool(torch.isfinite(value).all()) for value in seen):
        raise FloatingPointError("the step returns values that are not finite")
    return max(1, round(MIN_SAMPLE_S / max(last, 1e-9)))


def measure_blocks(
    candidates: Mapping[str, Step],
    repeats: Mapping[str, int],
    clock: Clock,
    effort: Effort,
    *,
    done: Iterable[dict[str, float]] = (),
    on_block: Callable[[dict[str, float]], None] = lambda block: None,
) -> list[dict[str, float]]:
    """Measure blocks until the effort is spent.

    Args:
        candidates: the step of each candidate, already warmed up.
        repeats: steps per sample of each candidate.
        clock: see :data:`Clock`.
        effort: when to stop.
        done: blocks of an earlier, interrupted run of the same candidates.
        on_block: called with each new block, e.g. to write it down.

    Returns:
        All blocks, earlier ones first: seconds per step by candidate.
    """
    blocks = list(done)
    shuffle = random.Random(len(blocks))
    deadline = time.monotonic() + effort.budget_s
    while len(blocks) < effort.min_blocks or (
        len(blocks) < effort.max_blocks and time.monotonic() < deadline
    ):
        order = list(candidates)
        shuffle.shuffle(order)
        block = {key: clock(candidates[key], repeats[key]) / repeats[key] for key in order}
        on_block(block)
        blocks.append(block)
    return blocks


def images_per_s(seconds: Iterable[float], batch_size: int) -> tuple[float, list[float], dict[str, float]]:
    """Median throughput, every sample and the spread (quartiles and range), all in images per second."""
    samples = [batch_size / s for s in seconds]
    low, _, high = quantiles(samples, n=4, method="inclusive") if len(samples) > 1 else samples * 3
    spread = {"q25": low, "q75": high, "min": min(samples), "max": max(samples)}
    return batch_size / median(batch_size / s for s in samples), samples, spread
