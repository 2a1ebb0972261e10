"""What a metric is: what it records, how that is shown and compared, and the function that measures it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from attnbench.errors import AttnbenchError

if TYPE_CHECKING:
    from attnbench.harness.models.build import Model
    from attnbench.harness.run.plan import Request
    from attnbench.harness.setting import Setting
    from attnbench.record import Cell, Measurement

Words = tuple[str, str]


class Bench(Protocol):
    """What a metric's function is given to measure with; see :class:`attnbench.harness.run.bench.Bench`."""

    request: "Request"

    def model(self, cell: "Cell") -> "Model":
        """The cell's model on the request's device, without gradients of an earlier use."""

    def setting(self, cell: "Cell") -> "Setting":
        """Device, mode, precision, batch, resolution and seed of the cell."""


Measure = Callable[..., Any]
"""``measure(cell, bench)``, or of a grouped metric ``measure(group, open_candidate, progress)``."""


@dataclass(frozen=True)
class Value:
    """One number that a metric records.

    Args:
        name: as in a record.
        unit: as in a record.
        heading: of its column; ``{setting}`` stands for mode and precision, ``{layout}`` for the layout.
        column: its name in a CSV; ``{suffix}`` stands for mode, precision and regime joined by ``_``.
        scale, digits: the value over ``scale`` is shown with so many digits.
        better: which direction is; ``equal``: any change is for the worse.
        tolerance: share by which two runs may differ before it counts.
        interval: the record's details may hold ``interval_95``, which decides instead of ``tolerance``.
        words: what a comparison says of a smaller and of a larger value.
        paired: a speed, whose samples are compared block by block.
        repeats: the value that it should equal, counted in another way; shown where it does not.
        csv_only: not shown elsewhere.
    """

    name: str
    unit: str
    heading: str
    column: str
    scale: float = 1.0
    digits: int = 0
    better: Literal["lower", "higher", "equal"] = "lower"
    tolerance: float = 0.0
    interval: bool = False
    words: Words = ("less", "more")
    paired: bool = False
    repeats: str = ""
    csv_only: bool = False

    def verdict(self, before: float, after: float, interval: Iterable[float] = ()) -> str:
        """``same``, or the word for a value that became smaller or larger by more than is noise."""
        slack = self.tolerance * abs(before)
        low, high = interval if self.interval and interval else (before - slack, before + slack)
        return "same" if low <= after <= high else self.words[after > before]

    def is_worse(self, verdict: str) -> bool:
        """Whether a verdict of :meth:`verdict`, or of a comparison of speeds, is a change for the worse."""
        smaller, larger = self.words
        worse = {"lower": (larger,), "higher": (smaller,), "equal": (smaller, larger)}[self.better]
        return verdict in worse


@dataclass(frozen=True)
class Metric:
    """A metric: see :func:`register_metric` for each field."""

    name: str
    title: str
    values: tuple[Value, ...]
    measure: Measure
    order: int = 100
    default: bool = True
    on_machine: bool = True
    per_setting: bool = False
    per_regime: bool = False
    with_batch: bool = False
    with_preset: bool = False
    grouped: bool = False
    needs: str = "model"
    own_layout: bool = False
    apart: bool = False
    cells: "Callable[[Request], Iterable[Mapping[str, Any]]] | None" = None
    condition: "Callable[[Measurement], str] | None" = None

    def value(self, name: str) -> Value:
        """The value called ``name``; for the metric's own name, under which it fails as a whole, the first.

        Raises:
            AttnbenchError: the metric records no such value.
        """
        for value in self.values:
            if value.name == name:
                return value
        if name == self.name:
            return self.values[0]
        known = ", ".join(value.name for value in self.values)
        raise AttnbenchError(f"metric {self.name!r} records no value {name!r}; it records {known}")
