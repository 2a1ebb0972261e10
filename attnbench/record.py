"""One number with everything needed to trust it."""

import hashlib
import json
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

SCHEMA = 3
"""Version of the record's form; a file with a higher one was written by a newer attnbench.

1: the first. 2: digest of the layout, hash of the recipe, certificate, state of the process that measured,
statuses ``crashed`` and ``timed_out``. 3: the data set that was trained on and tested with. Older records
load as they are; what they do not say is empty, but for the data set of an accuracy (:data:`FIRST_DATASET`).
"""

FIRST_DATASET = "digits"
"""What accuracy was measured on before a record said it: version 1 of the one data set there was."""

Status = Literal["ok", "failed", "out_of_memory", "crashed", "timed_out"]


def digest(content: Any) -> str:
    """Sixteen hex digits of what can be written as JSON; the same for equal content."""
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Cell(BaseModel):
    """What is to be measured, and under which conditions: equal cells have equal keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mechanism: str
    layout: str
    metric: str
    mode: str = ""
    precision: str = ""
    resolution: int
    batch_size: int = 1
    impl: str = "auto"
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the mechanism that differ from its defaults in the layout."""
    seed: int = 0
    regime: str = ""
    """How throughput chooses its batch: empty for the one given, ``largest`` that fits (``batch_size`` is 0,
    and the record says which) or ``latency`` (1, waiting for each step)."""
    preset: str = ""
    """How thoroughly: repeats or epochs, as :mod:`attnbench.harness.run.runner` defines them by name."""
    device: str = "cpu"
    machine: str = ""
    """What computer; empty where the number does not depend on it."""
    source: str = ""
    """Digest of the mechanism's file, so that an edited mechanism is measured anew."""
    layout_digest: str = ""
    """Digest of the layout's sizes, for the same reason."""
    recipe: str = ""
    """Hash of how it was trained, where it was; the recipe itself is in the measurement's details."""
    dataset: str = ""
    """The data set that the number depends on; empty where it depends on none."""
    dataset_digest: str = ""
    """Digest of the data set's samples as its code makes them; empty in records older than data sets."""
    torch: str = ""

    def key(self) -> str:
        """Sixteen hex digits that identify the cell."""
        # What is newer than a record and empty is no part of its key, so that the key still holds.
        without = {name for name in ("regime", "dataset", "dataset_digest") if not getattr(self, name)}
        return digest(self.model_dump(exclude=without))

    def stored_as(self) -> set[str]:
        """The key, and the one under which the same cell was stored before records named a data set."""
        if self.dataset != FIRST_DATASET or self.metric != "accuracy":
            return {self.key()}
        return {self.key(), self.model_copy(update={"dataset": "", "dataset_digest": ""}).key()}

    @property
    def row(self) -> str:
        """The table row it belongs to: the mechanism, and its options where some were given."""
        given = ", ".join(f"{key}={json.dumps(value)}" for key, value in sorted(self.options.items()))
        return f"{self.mechanism}[{given}]" if given else self.mechanism

    def __str__(self) -> str:
        return " ".join(part for part in (self.row, self.metric, self.mode, self.precision) if part)


class Measurement(BaseModel):
    """One value of one cell, or the reason why there is none.

    A value is the median of ``samples`` where there are several; ``spread`` gives their quartiles and
    range in the same unit. A cell may have several values, told apart by ``name``.
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: int = SCHEMA
    cell: Cell
    key: str
    name: str
    value: float | int | None = None
    unit: str = ""
    status: Status = "ok"
    reason: str = ""
    implementation: str = ""
    """What really ran; what was asked for is ``cell.impl``."""
    certificate: str = ""
    """Identifier of the certificate that covers the source and the options, ``none``, or empty if unknown."""
    samples: list[float] = Field(default_factory=list)
    spread: dict[str, float] = Field(default_factory=dict)
    details: dict[str, Any] = Field(default_factory=dict)
    environment: dict[str, Any] = Field(default_factory=dict)
    created: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @model_validator(mode="before")
    @classmethod
    def _in_todays_words(cls, content: Any) -> Any:
        """Older records call the baseline "control", and do not name the data set, which was one."""
        version = content.get("schema_version", SCHEMA) if isinstance(content, dict) else SCHEMA
        if isinstance(version, int) and version < 3:
            cell = content.get("cell")
            if isinstance(cell, dict) and cell.get("metric") == "accuracy" and not cell.get("dataset"):
                content = content | {"cell": cell | {"dataset": FIRST_DATASET}}
        details = content.get("details") if isinstance(content, dict) else None
        if isinstance(details, dict) and "control" in details:
            renamed = {"baseline" if key == "control" else key: value for key, value in details.items()}
            if renamed.get("verdict") == "control":
                renamed["verdict"] = "baseline"
            content = content | {"details": renamed}
        return content

    @classmethod
    def of(cls, cell: Cell, name: str, value: float | int | None, unit: str, **fields: Any) -> "Measurement":
        """A measurement of ``cell``; ``fields`` are the model's other fields."""
        return cls(cell=cell, key=cell.key(), name=name, value=value, unit=unit, **fields)
