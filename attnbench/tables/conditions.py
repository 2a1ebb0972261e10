"""Under which conditions a number was measured: only numbers with the same ones share a column."""

from typing import Any

from attnbench import metrics
from attnbench.record import Measurement


def conditions(m: Measurement, impl: str = "") -> str:
    """What must be alike for two numbers to stand in one column, as a note says it.

    Empty for counts, which are the same everywhere. The resolution is the table's; device, machine, torch,
    batch, effort, implementation asked for, threads, allocator and precision flags are here. ``impl`` stands
    in for what was asked of a reference model, which has no choice.
    """
    cell = m.cell
    if cell.device == "meta":
        return ""
    of = metrics.find(cell.metric, m.name)
    if of is not None and of[0].condition is not None:
        what = of[0].condition(m)
    else:
        preset = f", preset {cell.preset}" if cell.preset else ""
        what = f"{cell.metric} at {_batch(m)}{preset}"
    state = ", ".join(_state(m.environment, cell.device))
    where = f"on {cell.machine} ({cell.device}), torch {cell.torch}, impl {impl or cell.impl}"
    return f"{what}, {where}{', ' if state else ''}{state}"


def _batch(m: Measurement) -> str:
    return f"batch {m.cell.batch_size}" if m.cell.batch_size else "the largest batch that fits"


def _state(environment: dict[str, Any], device: str) -> list[str]:
    """What the process had set, as far as it was recorded."""
    found = []
    if "threads" in environment:
        found.append(f"{environment['threads']} threads")
    if "allocator" in environment and device == "cpu":
        settings = ", ".join(f"{key} {value}" for key, value in sorted(environment["allocator"].items()))
        found.append(f"allocator with {settings}" if settings else "allocator as it comes")
    if "tf32_matmul" in environment and device != "cpu":
        matmul, convolutions = environment["tf32_matmul"], environment.get("tf32_cudnn")
        kinds = [name for name, on in (("matmul", matmul), ("convolutions", convolutions)) if on]
        found.append(f"TF32 for {' and '.join(kinds)}" if kinds else "no TF32")
    if environment.get("deterministic"):
        found.append("deterministic")
    if environment.get("cudnn_benchmark"):
        found.append("cuDNN chooses by trial")
    return found
