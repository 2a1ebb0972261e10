"""From a request to cells: what is to be measured, in which order, by which effort."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from attnbench import baselines, metrics
from attnbench.errors import AttnbenchError
from attnbench.harness import environment
from attnbench.harness.models.backbone import create_model
from attnbench.harness.setting import Flags
from attnbench.harness.timing.blocks import Effort
from attnbench.harness.training.train import Recipe
from attnbench.harness.workers.isolation import InProcess, WorkerError, Workers
from attnbench.layouts import get_layout
from attnbench.metrics import Metric
from attnbench.record import Cell
from attnbench.registry import get, plugins


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
    "full": Preset("full", Effort(3.0, 18, 400, 180.0, processes=6), Recipe(epochs=40), 3600.0),
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

    def effort(self, regime: str = "") -> Effort:
        """For a group: in one process where they cannot be several, or might choose batches of their own."""
        effort = self.preset.effort
        return replace(effort, processes=1) if self.in_process or regime == "largest" else effort


def plan(request: Request) -> Iterator[Cell]:
    """The cells of a request, in the order in which they are measured."""
    machine = environment.machine(request.device)
    for name in request.metrics:
        metric = metrics.get(name)
        where: dict[str, Any] = {"device": "meta"}  # the same everywhere: no machine or version in the key
        if metric.on_machine:
            where = {"device": str(request.device), "machine": machine, "torch": torch.__version__}
            where["seed"] = request.seed
        for mechanism in _measured(request, metric):
            base = where | {"mechanism": mechanism, "metric": name} | _identity(mechanism, request)
            base |= {"layout": request.layout, "resolution": request.resolution}
            for fields in (metric.cells or _by_setting(metric))(request):
                yield Cell(**_in_layout(base | dict(fields)))


def _measured(request: Request, metric: Metric) -> tuple[str, ...]:
    """The mechanisms of a request; with a grouped metric the baseline is among them, named or not."""
    if not metric.grouped or not request.baseline:
        return request.mechanisms
    return tuple(dict.fromkeys((*request.mechanisms, request.baseline)))


def _by_setting(metric: Metric) -> Callable[[Request], Iterator[dict[str, Any]]]:
    """What the cells of a metric vary in: as its description says."""

    def cells(request: Request) -> Iterator[dict[str, Any]]:
        fields: dict[str, Any] = {"preset": request.preset.name} if metric.with_preset else {}
        if metric.with_batch:
            fields["batch_size"] = request.batch_size
        if not metric.per_setting:
            yield fields
            return
        for mode in request.modes:
            for precision in request.precisions:
                setting = fields | {"mode": mode, "precision": _precision(precision, request.flags)}
                for regime in request.regimes if metric.per_regime else ():
                    yield setting | _regime(regime, request)
                if not metric.per_regime:
                    yield setting

    return cells


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
        skip: pass over one that cannot be used and ``say`` why, unless it is of a plug-in; otherwise raise.
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
            elif skip and not _from_elsewhere(name):
                say(f"{name} is left out: {why_not}")
            else:
                raise AttnbenchError(why_not)


def _from_elsewhere(name: str) -> bool:
    """Whether a mechanism is of a file that the user named: what was asked for is not passed over."""
    return not baselines.is_baseline(name) and get(name).origin in plugins()


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
