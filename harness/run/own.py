"""A mechanism of one's own measured as others are: counts, memory, speed beside the baseline, accuracy."""

from pathlib import Path

import torch

from attnbench import metrics
from attnbench.harness.run import plan, runner
from attnbench.layouts import get_layout
from attnbench.progress import Progress

LAYOUT = "swin_t"
"""The layout of the published table."""
MEASURED = ("params", "macs", "memory", "throughput", "accuracy")


def measure(
    names: list[str], out: Path, device: torch.device, progress: Progress, *, in_process: bool = False
) -> runner.Summary:
    """Measure mechanisms in the published table's layout with quick effort; what has a record is known.

    Args:
        names: of the mechanisms.
        out: records go to its folder ``records``.
        device: where.
        progress: what the run reports to.
        in_process: no processes of their own.

    Raises:
        AttnbenchError: ``out`` cannot be written.
    """
    request = plan.Request(
        mechanisms=tuple(names),
        metrics=tuple(name for name in MEASURED if name in metrics.names()),
        layout=LAYOUT,
        device=device,
        precisions=("fp32",),
        modes=("infer", "train"),
        batch_size=64 if device.type == "cuda" else 1,
        resolution=get_layout(LAYOUT).img_size,
        impl="auto",
        options={},
        seed=0,
        preset=plan.PRESETS["quick"],
        out=out,
        in_process=in_process,
    )
    return runner.run(request, progress)
