"""Metrics, one file each: what a run records of a model, how tables show it, how two runs are compared.

A file of this folder, a plug-in (``--plugin FILE``) or an entry point of the group ``attnbench.metrics``
calls :func:`register_metric`. Nothing here imports torch; a metric's function does, when it is called.
"""

import functools
import importlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnbench import plugins
from attnbench.errors import AttnbenchError, UnknownNameError
from attnbench.metrics._metric import Bench, Measure, Metric, Value

if TYPE_CHECKING:
    from attnbench.harness.run.plan import Request
    from attnbench.record import Measurement

__all__ = ["Bench", "Metric", "Value", "find", "get", "names", "register_metric"]

_NEEDS = ("counts", "model", "alone")
_registered: dict[str, Metric] = {}


def register_metric(
    name: str,
    *,
    title: str,
    values: Iterable[Value],
    order: int = 100,
    default: bool = True,
    on_machine: bool = True,
    per_setting: bool = False,
    per_regime: bool = False,
    with_batch: bool = False,
    with_preset: bool = False,
    grouped: bool = False,
    needs: str = "model",
    own_layout: bool = False,
    apart: bool = False,
    cells: "Callable[[Request], Iterable[Mapping[str, Any]]] | None" = None,
    condition: "Callable[[Measurement], str] | None" = None,
) -> Callable[[Measure], Measure]:
    """Register the function below as what measures the metric ``name``.

    It is called as ``measure(cell, bench)`` and returns the cell's measurements; an exception becomes a
    record with the reason. That of a grouped metric is called for a group of candidates that take turns, see
    :func:`attnbench.metrics.throughput.measure`.

    Args:
        name: as ``attnbench run --metrics`` takes it.
        title: of the phase of a run.
        values: what it records; the first stands for it where the metric fails as a whole.
        order: place among phases and columns, the smallest first.
        default: measured by ``attnbench run`` unless ``--metrics`` says otherwise.
        on_machine: depends on machine, device, implementation and versions; a count does not.
        per_setting: one cell per mode and precision.
        per_regime: one cell per way to choose the batch.
        with_batch: depends on the batch size.
        with_preset: depends on how thoroughly it is measured.
        grouped: candidates take turns, the baseline among them, and are compared block by block.
        needs: ``counts``: a model without memory, many in one process; ``model``: cells that share a model
            share a process; ``alone``: a process for each cell.
        own_layout: measured in a layout of its own, whatever layout the run asks for.
        apart: no column of the tables of mechanisms unless asked for; it has a table of its own, or is no
            measure of quality.
        cells: of a request, the fields of each of its cells beyond mechanism, layout and resolution; by
            default they follow from the flags above.
        condition: of a record, under which conditions it was made, as a note says it; the machine is said
            elsewhere.

    Raises:
        AttnbenchError: the name is taken or not an identifier, there is no value, or ``needs`` is unknown.
    """
    if not name.isidentifier() or name.startswith("_"):
        raise AttnbenchError(f"metric name {name!r} is not a snake_case identifier")
    if needs not in _NEEDS:
        raise UnknownNameError("needs of a metric", needs, _NEEDS)
    recorded = tuple(values)
    if not recorded:
        raise AttnbenchError(f"metric {name!r} records no value; give at least one Value")

    def register(measure: Measure) -> Measure:
        known = _registered.get(name)
        if known is not None and known.measure.__module__ != measure.__module__:
            where = f"{known.measure.__module__} and {measure.__module__}"
            raise AttnbenchError(f"metric name {name!r} is registered twice, in {where}; rename one")
        _registered[name] = Metric(
            name, title, recorded, measure, order, default, on_machine, per_setting, per_regime, with_batch,
            with_preset, grouped, needs, own_layout, apart, cells, condition,
        )  # fmt: skip
        return measure

    return register


def names() -> tuple[str, ...]:
    """Names of all metrics, in their order."""
    return tuple(metric.name for metric in sorted(_all().values(), key=lambda metric: metric.order))


def get(name: str) -> Metric:
    """The metric called ``name``.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in _all():
        raise UnknownNameError("metric", name, names())
    return _registered[name]


def find(metric: str, name: str) -> tuple[Metric, Value] | None:
    """The metric and the value of a record; ``None`` for those of a plug-in that is not loaded now."""
    found = _all().get(metric)
    try:
        return (found, found.value(name)) if found else None
    except AttnbenchError:
        return None


def _all() -> dict[str, Metric]:
    _load_folder()
    plugins.import_plugins("register_metric", "attnbench.metrics")
    return _registered


@functools.cache
def _load_folder() -> None:
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        importlib.import_module(f"{__name__}.{path.stem}")
