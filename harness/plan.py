"""From a request to cells: what is to be measured, in which order, by which effort."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from attnbench import references
from attnbench.errors import AttnbenchError
from attnbench.harness import environment
from attnbench.harness.models.backbone import create_model
from attnbench.harness.setting import Pins
from attnbench.harness.timing.blocks import Effort
from attnbench.harness.training.train import Recipe
from attnbench.layouts import get_layout
from attnbench.record import Cell
from attnbench.registry import get

ACCURACY_LAYOUT = "swin_pico"


@dataclass(frozen=True)
class Preset:
    """How thoroughly to measure. ``budget_s`` is the time for one group of interleaved candidates."""

    name: str
    effort: Effort
    recipe: Recipe


PRESETS = {
    "quick": Preset("quick", Effort(0.3, 3, 15, 10.0), Recipe(epochs=4)),
    "full": Preset("full", Effort(10.0, 15, 400, 180.0), Recipe(epochs=40)),
}


@dataclass(frozen=True)
class Request:
    """What ``attnbench run`` was asked for; see its help for the meaning of each field."""

    mechanisms: tuple[str, ...]
    metrics: tuple[str, ...]
    layout: str
    device: torch.device
    precisions: tuple[str, ...]
    modes: tuple[str, ...]
    batch_size: int
    resolution: int
    impl: str
    options: dict[str, Any]
    seed: int
    preset: Preset
    out: Path
    force: bool = False
    control: str = references.CONTROL
    regimes: tuple[str, ...] = ("fixed",)
    pins: Pins = field(default_factory=Pins)


def plan(request: Request) -> Iterator[Cell]:
    """The cells of a request, in the order in which they are measured."""
    machine = environment.machine(request.device)
    for metric in request.metrics:
        for mechanism in _measured(request, metric):
            base: dict[str, Any] = {
                "mechanism": mechanism,
                "layout": request.layout,
                "metric": metric,
                "resolution": request.resolution,
                **_identity(mechanism, request),
            }
            if metric in ("params", "macs"):
                # the same on every machine: neither device nor versions are part of the key
                yield Cell(**base, device="meta")
                continue
            base |= {
                "seed": request.seed,
                "device": str(request.device),
                "machine": machine,
                "torch": torch.__version__,
            }
            if metric == "accuracy":
                base |= {"layout": ACCURACY_LAYOUT, "resolution": get_layout(ACCURACY_LAYOUT).img_size}
                base |= {"preset": request.preset.name, "batch_size": request.preset.recipe.batch_size}
                yield Cell(**base, mode="train")
                continue
            for mode in request.modes:
                for precision in request.precisions:
                    conditions = base | {"mode": mode, "precision": _precision(precision, request.pins)}
                    if metric == "throughput":
                        conditions["preset"] = request.preset.name
                        yield from (
                            Cell(**conditions, **_regime(regime, request)) for regime in request.regimes
                        )
                    else:
                        yield Cell(**conditions, batch_size=request.batch_size)


def _measured(request: Request, metric: str) -> tuple[str, ...]:
    """The mechanisms of a request; throughput is measured with the control among them, named or not."""
    if metric != "throughput" or not request.control:
        return request.mechanisms
    return tuple(dict.fromkeys((*request.mechanisms, request.control)))


def _precision(precision: str, pins: Pins) -> str:
    """With TF32 allowed it is another precision, and another column."""
    return {"fp32": "tf32", "amp": "amp_tf32"}[precision] if pins.tf32 else precision


def _regime(regime: str, request: Request) -> dict[str, Any]:
    """Batch and regime of a cell; see :class:`~attnbench.record.Cell`."""
    batch = {"fixed": request.batch_size, "largest": 0, "latency": 1}[regime]
    return {"batch_size": batch, "regime": "" if regime == "fixed" else regime}


def _identity(mechanism: str, request: Request) -> dict[str, Any]:
    """What tells one build of a mechanism from another; a reference has no implementations or options."""
    if references.is_reference(mechanism):
        return {"source": references.source(mechanism)}
    return {"impl": request.impl, "options": request.options, "source": get(mechanism).digest()}


def usable(
    mechanisms: Iterable[str],
    impl: str,
    options: dict[str, Any],
    *,
    skip: bool,
    say: Callable[[str], None],
) -> Iterator[str]:
    """Those of the mechanisms that import and can be built so, known before the first hour.

    Args:
        mechanisms: names; references are usable everywhere.
        impl: implementation asked for.
        options: of the mechanisms.
        skip: pass over one that cannot be used and ``say`` why; otherwise raise.

    Raises:
        AttnbenchError: a file fails to import, an option is wrong, or the implementation cannot run here.
    """
    for name in mechanisms:
        if references.is_reference(name):
            yield name
            continue
        try:
            with torch.device("meta"):
                create_model("swin_pico", name, impl=impl, **options)
        except AttnbenchError as error:
            if not skip:
                raise
            say(f"{name} is left out: {error}")
        else:
            yield name
