"""Many models on many probes: what has a record is not trained again, and a failure is a record too.

The learning rate of a mechanism on a probe is chosen with the first seed, on validation pictures; the further
seeds are trained at it. So a row costs as many trainings as it has seeds, and one more for each further rate.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from attnbench import certificates, datasets, layouts, store
from attnbench.datasets import DatasetSpec
from attnbench.errors import AttnbenchError
from attnbench.harness import environment
from attnbench.harness.probes import measure
from attnbench.harness.probes.fitting import Budget
from attnbench.harness.probes.probe import CELL
from attnbench.harness.workers.deaths import cause_of_error
from attnbench.layouts import Layout, get_layout
from attnbench.progress import Progress
from attnbench.record import Cell, Measurement, digest
from attnbench.registry import get


@dataclass(frozen=True)
class Request:
    """What is to be trained; see the help of ``attnbench probe``.

    ``layout`` is empty for the probe's own, ``side`` 0 for the layout's own, ``steps`` 0 for the probe's own.
    """

    probes: tuple[str, ...]
    mechanisms: tuple[str, ...]
    seeds: tuple[int, ...]
    device: torch.device
    out: Path
    layout: str = ""
    side: int = 0
    steps: int = 0
    rates: tuple[float, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    impl: str = "auto"
    force: bool = False


@dataclass
class Summary:
    """What was done: cells trained, known before, failed (with the reason)."""

    trained: int = 0
    known: int = 0
    failed: list[str] = field(default_factory=list)


def budget_of(name: str, steps: int = 0, rates: tuple[float, ...] = ()) -> Budget:
    """The budget of a probe: its own, or what was asked for."""
    probe: Any = datasets.get(name).load()
    budget = Budget(steps or probe.steps, probe.batch_size)
    return replace(budget, rates=rates) if rates else budget


def conditions(
    name: str, layout: str = "", side: int = 0, steps: int = 0, rates: tuple[float, ...] = ()
) -> dict[str, Any]:
    """Fields of a cell that follow from the probe and from how it is trained."""
    spec = datasets.get(name)
    chosen = get_layout(layout or spec.facts.layouts[0])
    _check(spec, chosen)
    budget = budget_of(name, steps, rates)
    return {
        "layout": chosen.name,
        "layout_digest": chosen.digest(),
        "mode": "train",
        "resolution": side * CELL or chosen.img_size,
        "batch_size": budget.batch_size,
        "recipe": digest(budget.describe()),
        "dataset": spec.name,
        "dataset_digest": spec.digest(),
    }


def _check(spec: DatasetSpec, layout: Layout) -> None:
    """Raise AttnbenchError for a probe that a layout cannot answer."""
    cells = f"take one of {', '.join(name for name in layouts.names() if _of_cells(get_layout(name)))}"
    if not layout.merges and layout.patch_size != CELL:
        raise AttnbenchError(
            f"a cell has {CELL} pixels, a token of {layout.name} {layout.patch_size}: {cells}"
        )
    probe: Any = spec.load()
    if layout.merges and not probe.of_picture:
        raise AttnbenchError(
            f"{spec.name} asks single cells; {layout.name}, of {len(layout.depths)} stages, answers for the "
            f"picture: {cells}"
        )


def _of_cells(layout: Layout) -> bool:
    return not layout.merges and layout.patch_size == CELL


def plan(request: Request) -> Iterator[Cell]:
    """The cells of a request, seed by seed, so that whatever exists is a set of whole rows."""
    machine = environment.machine(request.device)
    for seed in request.seeds:
        for name in request.probes:
            fields = conditions(name, request.layout, request.side, request.steps, request.rates)
            for mechanism in request.mechanisms:
                yield Cell(
                    mechanism=mechanism,
                    metric="probe",
                    impl=request.impl,
                    options=request.options,
                    seed=seed,
                    device=str(request.device),
                    machine=machine,
                    source=get(mechanism).digest(),
                    torch=torch.__version__,
                    **fields,
                )


def run(request: Request, progress: Progress) -> Summary:
    """Train and score what has no record yet.

    Raises:
        AttnbenchError: the output folder cannot be written.
    """
    environment.pin_allocator()
    records = request.out / "records" / f"{environment.machine(request.device)}.jsonl"
    store.check_writable(records.parent)
    known = {m.key: m for m in store.read(records.parent, progress.say) if m.name in ("accuracy", "probe")}
    summary = Summary()
    cells = list(plan(request))
    progress.phase("probes", len(cells))
    for cell in cells:
        if cell.key() in known and not request.force:
            summary.known += 1
        else:
            found = _outcome(cell, request, known)
            store.append(records, _with_provenance(found, request.device))
            known[cell.key()] = found[0]
            summary.trained += 1
            if found[0].status != "ok":
                summary.failed.append(f"{cell.mechanism} on {cell.dataset}: {found[0].reason}")
        progress.step(f"{cell.dataset} {cell.row} seed {cell.seed}")
    return summary


def _outcome(cell: Cell, request: Request, known: dict[str, Measurement]) -> list[Measurement]:
    """Measurements of a cell, the accuracy first, or the reason why there are none."""
    first = cell.model_copy(update={"seed": request.seeds[0]}).key()
    rate = known[first].details.get("rate") if first in known else None
    budget = budget_of(cell.dataset, request.steps, request.rates)
    try:
        return measure.measure(cell, budget, (rate,) if rate else ())
    except Exception as error:  # a mechanism from anywhere: any
        cause = cause_of_error(error)
        return [Measurement.of(cell, "probe", None, "", status=cause.status, reason=cause.reason)]


def _with_provenance(found: Iterable[Measurement], device: torch.device) -> list[Measurement]:
    here = environment.describe(device) | environment.state() | environment.isolation(in_process=True)
    filled = []
    for m in found:
        plain = not m.cell.options
        certificate = certificates.identifier(m.cell.mechanism, m.cell.source) if plain else "none"
        filled.append(m.model_copy(update={"environment": here, "certificate": certificate}))
    return filled
