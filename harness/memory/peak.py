"""Peak memory of a step, measured: by the allocator's own count, in a pass that measures nothing else.

On CUDA it is the allocator's peak (``torch.cuda.max_memory_allocated``; ``reserved`` is what it had taken
from the driver). On a CPU torch's profiler reports every allocation and release during one step; the peak
of their running sum is added to what was held before (weights, optimiser state, inputs). Either way it
counts tensors and kernels' workspace, not the process: no interpreter, no libraries, no fragmentation.
Another pass of the same step, tensor by tensor, tells what the peak consists of.
"""

from collections.abc import Callable
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from attnbench.errors import AttnbenchError
from attnbench.harness.memory.tracker import Tracker
from attnbench.harness.memory.usage import Usage

CPU_METHOD = "peak of the CPU allocator's running sum (torch.profiler) plus what was held before the step"
CUDA_METHOD = "torch.cuda.max_memory_allocated"


def measure(step: Callable[[], Tensor], model: nn.Module, device: torch.device, inputs: int) -> Usage:
    """Peak bytes of a step after the first, which creates optimiser state, and their parts.

    The step runs three times: to warm up, to tell the parts apart, and to measure the peak.

    Args:
        step: runs one step; see :func:`attnbench.harness.setting.make_step`.
        model: the model it runs, on ``device``.
        device: where.
        inputs: bytes of the images and labels that the step holds.
    """
    step()
    model.zero_grad(set_to_none=True)  # neither pass may see what was allocated before it being freed
    with Tracker(model, device) as tracker:
        try:
            step()
        except RuntimeError as error:
            if "no compiled frames" not in str(error):
                raise
            raise AttnbenchError(
                "a part of the model compiles itself when it runs (natten does on a CPU), and what it holds "
                "cannot be followed; take another --impl"
            ) from error
    model.zero_grad(set_to_none=True)
    parts = {**tracker.parts(), "inputs": inputs}
    if device.type == "cuda":
        peak, reserved = _cuda_peak(step, device)
        return Usage.of(peak, CUDA_METHOD, parts, largest=tracker.largest, reserved=reserved)
    held = parts["weights"] + parts["optimizer"] + inputs
    return Usage.of(held + _cpu_peak(step), CPU_METHOD, parts, largest=tracker.largest)


def _cuda_peak(step: Callable[[], Tensor], device: torch.device) -> tuple[int, int]:
    """Bytes allocated and bytes reserved; what earlier passes left in the cache is given back first."""
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)


def _cpu_peak(step: Callable[[], Tensor]) -> int:
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as profiler:
        step()
    results = profiler.profiler.kineto_results if profiler.profiler else None
    if results is None:
        raise RuntimeError("torch's profiler returned no events; memory on a CPU cannot be measured")
    events = [event for event in results.events() if event.name() == "[memory]"]
    changes: list[Any] = sorted(events, key=lambda event: event.start_ns())
    return max(accumulate(change.nbytes() for change in changes), default=0)
