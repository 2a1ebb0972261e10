"""Peak memory of a step, in bytes, weights and inputs included.

On CUDA it is the allocator's own peak (``torch.cuda.max_memory_allocated``). On a CPU it is measured
too: torch's profiler reports every allocation and release of the CPU allocator during one step; the
peak of their running sum is added to what was held before (weights, optimiser state, inputs).
Either way it counts tensors, not the process: no interpreter, no libraries, no fragmentation.
"""

from collections.abc import Callable
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

CPU_METHOD = "peak of the CPU allocator's running sum (torch.profiler) plus what was held before the step"
CUDA_METHOD = "torch.cuda.max_memory_allocated"


def measure(
    step: Callable[[], Tensor], model: nn.Module, device: torch.device, inputs: int
) -> tuple[int, str]:
    """Peak bytes of the second of two steps (the first creates optimiser state), and how it was measured.

    Args:
        step: runs one step; see :func:`attnbench.harness.setting.make_step`.
        model: the model it runs, on ``device``.
        device: where.
        inputs: bytes of the images and labels that the step holds.
    """
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device), CUDA_METHOD
    held = inputs + _held(model)
    model.zero_grad(set_to_none=True)  # the profiler does not see what was allocated before it being freed
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as profiler:
        step()
    return held + _peak(profiler), CPU_METHOD


def _held(model: nn.Module) -> int:
    """Weights and buffers, and AdamW's two moments of each weight that the last step gave a gradient."""
    tensors = [*model.parameters(), *model.buffers()]
    weights = sum(t.untyped_storage().nbytes() for t in tensors)
    trained = sum(p.untyped_storage().nbytes() for p in model.parameters() if p.grad is not None)
    return weights + 2 * trained


def _peak(profiler: torch.profiler.profile) -> int:
    results = profiler.profiler.kineto_results if profiler.profiler else None
    if results is None:
        raise RuntimeError("torch's profiler returned no events; memory on a CPU cannot be measured")
    events = [event for event in results.events() if event.name() == "[memory]"]
    changes: list[Any] = sorted(events, key=lambda event: event.start_ns())
    return max(accumulate(change.nbytes() for change in changes), default=0)
