"""From a request to cells: what is to be measured, in which order, by which effort."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from attnbench import baselines
from attnbench.errors import AttnbenchError
from attnbench.harness import environment
from attnbench.harness.models.backbone import create_model
from attnbench.harness.setting import Flags
from attnbench.harness.timing.blocks import Effort
from attnbench.harness.training.train import Recipe
from attnbench.harness.workers.isolation import InProcess, WorkerError, Workers
from attnbench.layouts import get_layout
from attnbench.record import Cell, digest
from attnbench.registry import get

ACCURACY_LAYOUT = "swin_pico"


@dataclass(frozen=True)
class Preset:
    """How thoroughly to measure.

    ``effort.budget_s`` is the time for one group of interleaved candidates, ``time_limit_s`` the time after
    which the process of a cell is taken to hang.
    """

    name: str
    effort: Effort
    recipe: Recipe
    time_limit_s: float


PRESETS = {
    "quick": Preset("quick", Effort(0.3, 3, 15, 10.0), Recipe(epochs=4), 600.0),
    "full": Preset("full", Effort(10.0, 15, 400, 180.0), Recipe(epochs=40), 3600.0),
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
    baseline: str = baselines.BASELINE
    regimes: tuple[str, ...] = ("fixed",)
    flags: Flags = field(default_factory=Flags)
    in_process: bool = False
    time_limit_s: float = 0.0
    """For one cell; 0 for the preset's."""

    @property
    def limit_s(self) -> float:
        """Seconds that one cell may take."""
        return self.time_limit_s or self.preset.time_limit_s


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
                yield Cell(**_in_layout(base), device="meta")
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
                base |= {"recipe": digest(request.preset.recipe.describe())}
                yield Cell(**_in_layout(base), mode="train")
                continue
            for mode in request.modes:
                for precision in request.precisions:
                    conditions = base | {"mode": mode, "precision": _precision(precision, request.flags)}
                    if metric == "throughput":
                        conditions["preset"] = request.preset.name
                        for regime in request.regimes:
                            yield Cell(**_in_layout(conditions), **_regime(regime, request))
                    else:
                        yield Cell(**_in_layout(conditions), batch_size=request.batch_size)


def _measured(request: Request, metric: str) -> tuple[str, ...]:
    """The mechanisms of a request; throughput is measured with the baseline among them, named or not."""
    if metric != "throughput" or not request.baseline:
        return request.mechanisms
    return tuple(dict.fromkeys((*request.mechanisms, request.baseline)))


def _precision(precision: str, flags: Flags) -> str:
    """With TF32 allowed it is another precision, and another column."""
    return {"fp32": "tf32", "amp": "amp_tf32"}[precision] if flags.tf32 else precision


def _regime(regime: str, request: Request) -> dict[str, Any]:
    """Batch and regime of a cell; see :class:`~attnbench.record.Cell`."""
    batch = {"fixed": request.batch_size, "largest": 0, "latency": 1}[regime]
    return {"batch_size": batch, "regime": "" if regime == "fixed" else regime}


def _in_layout(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields of a cell with the digest of the layout that they name."""
    return fields | {"layout_digest": get_layout(fields["layout"]).digest()}


def _identity(mechanism: str, request: Request) -> dict[str, Any]:
    """What tells one build of a mechanism from another; a reference has no implementations or options."""
    if baselines.is_baseline(mechanism):
        return {"source": baselines.source(mechanism)}
    return {"impl": request.impl, "options": request.options, "source": get(mechanism).digest()}


def usable(
    mechanisms: Iterable[str],
    impl: str,
    options: dict[str, Any],
    *,
    skip: bool,
    say: Callable[[str], None],
    in_process: bool = False,
) -> Iterator[str]:
    """Those of the mechanisms that import and can be built so, known before the first hour.

    One that takes its process with it is yielded: its cells will each say so.

    Args:
        mechanisms: names; references are usable everywhere.
        impl: implementation asked for.
        options: of the mechanisms.
        skip: pass over one that cannot be used and ``say`` why; otherwise raise.
        in_process: build them in this process.

    Raises:
        AttnbenchError: a file fails to import, an option is wrong, or the implementation cannot run here.
    """
    with InProcess(Builder) if in_process else Workers(Builder) as builder:
        for name in mechanisms:
            try:
                why_not = builder.call("why_not", name, impl, options)
            except WorkerError:
                why_not = ""
            if not why_not:
                yield name
            elif skip:
                say(f"{name} is left out: {why_not}")
            else:
                raise AttnbenchError(why_not)


class Builder:
    """Builds mechanisms to see whether they can be."""

    def why_not(self, name: str, impl: str, options: dict[str, Any]) -> str:
        """Why a mechanism cannot be built; empty if it can."""
        if baselines.is_baseline(name):
            return ""
        try:
            with torch.device("meta"):
                create_model("swin_pico", name, impl=impl, **options)
        except AttnbenchError as error:
            return str(error)
        except Exception:  # a fault of the mechanism, not of what was asked for: its cells will say so
            return ""
        return ""
