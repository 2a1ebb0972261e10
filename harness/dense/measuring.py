"""What a dense model costs, holds and takes on one image of the paper's size."""

import statistics
from typing import Any

import torch
from torch import Tensor, nn

from attnbench import dense_recipes
from attnbench.harness import memory
from attnbench.harness.counting import macs, parameters
from attnbench.harness.dense.dense_model import DenseModel, backbone_of, create_dense_model
from attnbench.harness.models.backbone import executed_impl
from attnbench.harness.timing.clock import MIN_SAMPLE_S, device_clock
from attnbench.heads import RECIPES, TASK_OF, differences, paper_size
from attnbench.metrics import Bench
from attnbench.record import Cell, Measurement

CLASSES = {"semantic": 150, "detection": 80}


class Issue(nn.Module):
    """A forward pass of all that multiplies: logits of a segmenter; of a detector, without choosing boxes."""

    def __init__(self, model: DenseModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Any:
        """Outputs of a batch (B, 3, height, width)."""
        model: Any = self.model
        return model.issue(images) if hasattr(model, "issue") else model(images)


def costs(head: str, cell: Cell) -> list[Measurement]:
    """Parameters, and multiply-adds by formula and by torch's counter, on the meta device."""
    with torch.device("meta"):
        model = _build(head, cell, "eager").eval()
    size = paper_size(head, cell.resolution)
    counted = macs.count_forward(Issue(model), torch.zeros(1, 3, *size, device="meta"))
    phases = model.macs(*size)
    total = sum(phases.values())
    details = _details(head, cell, size) | {"phases": phases}
    failed: dict[str, Any] = {}
    if total != counted.macs and not (counted.uncounted and total > counted.macs):
        reason = f"the formula gives {total} MACs, torch's counter {counted.macs}; they must agree"
        failed = {"status": "failed", "reason": reason}
    bound = {"lower_bound": bool(counted.uncounted), "uncounted": list(counted.uncounted)}
    return [
        Measurement.of(cell, f"{head}_params", parameters.measure(model), "parameters", details=details),
        Measurement.of(cell, f"{head}_macs", total, "MACs", details=details, **failed),
        Measurement.of(cell, f"{head}_macs_counted", counted.macs, "MACs", details=details | bound),
    ]


def speed(head: str, cell: Cell, bench: Bench) -> list[Measurement]:
    """Peak memory of a step and images per second: one image, forward, or forward and backward in ``train``.

    The step of ``train`` goes back from the sum of the outputs: what a loss costs beyond them is not in it.
    """
    device, size = bench.request.device, paper_size(head, cell.resolution)
    torch.manual_seed(cell.seed)
    model = _build(head, cell, cell.impl).to(device).train(cell.mode == "train")
    images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(cell.seed)).to(device)
    step = _step(Issue(model), images, cell, device)
    used = memory.measure(step, model, device, images.nbytes)
    seconds = _seconds(step, device, bench)
    ran = executed_impl(backbone_of(model), bench.setting(cell))
    details = _details(head, cell, size)
    rate = [1 / value for value in seconds]
    return [
        Measurement.of(
            cell,
            f"{head}_peak_memory",
            used.peak,
            "bytes",
            implementation=ran,
            details=details | used.details(),
        ),
        Measurement.of(
            cell,
            f"{head}_images_per_s",
            statistics.median(rate),
            "images/s",
            implementation=ran,
            details=details,
            samples=rate,
            spread={"low": min(rate), "high": max(rate)},
        ),
    ]


def _build(head: str, cell: Cell, impl: str) -> DenseModel:
    options = {**_set_to(head, cell.mechanism), **cell.options}
    return create_dense_model(head, cell.layout, cell.mechanism, CLASSES[TASK_OF[head]], impl=impl, **options)


def _set_to(head: str, mechanism: str) -> dict[str, Any]:
    """What the head's recipe sets a mechanism to."""
    return dict(dense_recipes.get(RECIPES[head]).options.get(mechanism, {}))


def _details(head: str, cell: Cell, size: tuple[int, int]) -> dict[str, Any]:
    return {
        "size": list(size),
        "classes": CLASSES[TASK_OF[head]],
        "recipe": RECIPES[head],
        "recipe_options": _set_to(head, cell.mechanism),
        "differences": differences(head),
    }


def _step(model: Issue, images: Tensor, cell: Cell, device: torch.device) -> Any:
    amp = cell.precision.startswith("amp")

    def step() -> Tensor:
        train = cell.mode == "train"
        with torch.set_grad_enabled(train), torch.autocast(device.type, torch.bfloat16, enabled=amp):
            outputs = model(images)
            total = sum(x.float().sum() for x in (outputs if isinstance(outputs, list) else [outputs]))
        if train:
            model.zero_grad(set_to_none=True)
            total.backward()
        return total

    return step


def _seconds(step: Any, device: torch.device, bench: Bench) -> list[float]:
    """Seconds of a step, as many samples as the preset asks for within its budget."""
    clock, effort = device_clock(device), bench.request.preset.effort
    first = clock(step, 1).device_s
    repeats = max(1, int(MIN_SAMPLE_S / max(first, 1e-9)) + 1) if first < MIN_SAMPLE_S else 1
    found: list[float] = []
    while len(found) < 3 or (sum(found) * repeats < effort.budget_s and len(found) < effort.max_blocks):
        found.append(clock(step, repeats).device_s / repeats)
    return found
