"""Launch overhead: the same steps issued by Python one kernel at a time, and replayed as one CUDA graph.

A graph is captured after the timing and freed again, one candidate at a time: its memory is its own, and
that of all candidates at once might not fit.
"""

from dataclasses import dataclass
from statistics import median

import torch

from attnbench.harness.setting import Workload
from attnbench.harness.timing.clock import CudaClock


@dataclass(frozen=True)
class Replay:
    """Seconds per step, issued and replayed, medians of interleaved samples; or why there are none."""

    issued_s: float = 0.0
    replayed_s: float = 0.0
    reason: str = ""

    @property
    def launch_share(self) -> float:
        """Share of a step's time that is spent waiting for launches."""
        return max(0.0, 1 - self.replayed_s / self.issued_s) if self.issued_s else 0.0


def compare(step: Workload, device: torch.device, repeats: int, pairs: int) -> Replay:
    """Capture one step and time it both ways in turn.

    A step that cannot be captured (it waits for the device, or allocates by what it computes) has a reason.
    """
    if device.type != "cuda":
        return Replay(reason="CUDA graphs are CUDA's")
    if step.optimizer is not None:
        _make_capturable(step.optimizer, device)
    try:
        graph = _capture(step, device)
        clock = CudaClock(device)

        def replayed() -> torch.Tensor:
            graph.replay()
            return step.images

        both = [(clock(step, repeats).device_s, clock(replayed, repeats).device_s) for _ in range(pairs)]
    except (RuntimeError, AssertionError) as error:
        torch.cuda.synchronize(device)
        return Replay(reason=f"not capturable: {(str(error).splitlines() or [type(error).__name__])[0]}")
    return Replay(*(median(times) / repeats for times in zip(*both, strict=True)))


def _make_capturable(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Let the optimiser count its steps on the device: a graph cannot read the host's memory."""
    for group in optimizer.param_groups:
        group["capturable"] = True
    for state in optimizer.state.values():
        state["step"] = state["step"].to(device)


def _capture(step: Workload, device: torch.device) -> torch.cuda.CUDAGraph:
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):  # the first steps allocate what the graph must not
        for _ in range(3):
            step()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph
