"""One attention module under pytest-benchmark: device time, and beside it MACs, memory and what ran.

The result goes two ways: into pytest-benchmark's own JSON (``extra_info``), and as a record into the store
that ``attnbench run`` writes to. Its layout is called ``swin_t.stage1``: one module, not a model, so no
table of models takes it in.
"""

import math
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from attnbench import registry, store
from attnbench.errors import AttnbenchError
from attnbench.harness import environment, memory
from attnbench.harness.setting import Flags
from attnbench.implementations import executed
from attnbench.record import Cell, Measurement
from attnbench.registry import Site

BATCH = 2
ROUNDS = 5
ROUND_S = 0.02
"""A round repeats a shorter step until it takes this long."""


def attention(
    benchmark: Any, timer: Callable[[], float], name: str, site: Site, direction: str, out: Path
) -> Tensor:
    """Benchmark one mechanism at one site, and keep a record.

    The number of steps in a round is chosen by the timer's own readings, so that it must be a device
    clock (:mod:`attnbench.harness.timing.device_timer`): pytest-benchmark's calibration is not used.

    Args:
        benchmark: pytest-benchmark's fixture.
        timer: the timer that the fixture was given.
        name: the mechanism.
        site: the place of the module.
        direction: ``forward`` or ``forward_backward``.
        out: folder of results.

    Returns:
        The output of one more step.
    """
    device = environment.resolve_device("auto")
    environment.pin_allocator()
    Flags().apply()
    torch.manual_seed(0)
    module = registry.get(name).build(site).to(device).train(direction == "forward_backward")
    x = torch.randn(BATCH, site.height, site.width, site.dim, device=device)
    step = _step(module, x, direction)
    step()
    begin = timer()
    step()
    iterations = max(1, math.ceil(ROUND_S / max(timer() - begin, ROUND_S / 100)))
    benchmark.group = f"stage {site.stage + 1} {direction}"
    benchmark.pedantic(step, rounds=ROUNDS, iterations=iterations, warmup_rounds=1)
    if benchmark.stats is not None:  # None with --benchmark-disable
        samples = [float(seconds) for seconds in benchmark.stats.stats.data]
        used = memory.measure(step, module, device, x.nbytes)
        training = direction == "forward_backward"
        implementation = executed(module, x.device, x.dtype, site.height, site.width, training)
        benchmark.extra_info.update(
            device_seconds=median(samples),
            macs_per_image=_macs(module, site),
            peak_memory_bytes=used.peak,
            memory=used.details(),
            implementation=implementation,
            batch_size=BATCH,
            iterations=iterations,
            device=str(device),
        )
        cell = _cell(name, site, direction, device)
        _keep(cell, samples, implementation, benchmark.extra_info, out)
    return step()


def _step(module: nn.Module, x: Tensor, direction: str) -> Callable[[], Tensor]:
    def forward() -> Tensor:
        with torch.no_grad():
            return module(x)

    def forward_backward() -> Tensor:
        module.zero_grad(set_to_none=True)
        out = module(x.detach().requires_grad_())
        out.sum().backward()
        return out.detach()

    return forward if direction == "forward" else forward_backward


def _macs(module: Any, site: Site) -> int | None:
    try:
        return sum(module.macs(site.height, site.width).values())
    except (AttributeError, AttnbenchError):
        return None


def _cell(name: str, site: Site, direction: str, device: torch.device) -> Cell:
    return Cell(
        mechanism=name,
        layout=f"swin_t.stage{site.stage + 1}",
        metric="attention_time",
        mode=direction,
        precision="fp32",
        resolution=224,
        batch_size=BATCH,
        device=str(device),
        machine=environment.machine(device),
        source=registry.get(name).digest(),
        torch=torch.__version__,
    )


def _keep(cell: Cell, samples: list[float], implementation: str, info: dict[str, Any], out: Path) -> None:
    spread = {"min": min(samples), "max": max(samples)}
    record = Measurement.of(
        cell,
        "attention_time",
        median(samples),
        "s",
        samples=samples,
        spread=spread,
        implementation=implementation,
        details=dict(info),
        environment=environment.describe(torch.device(cell.device)) | environment.state(),
    )
    store.append(out / "records" / f"{cell.machine}.jsonl", [record])
