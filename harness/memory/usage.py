"""Peak memory of a step and what it consists of."""

from dataclasses import asdict, dataclass, field
from typing import Any

from attnbench.harness.memory.tracker import PARTS, Allocation


@dataclass(frozen=True)
class Usage:
    """Bytes at the moment when a step holds most.

    Args:
        peak: all of it, weights and inputs included.
        method: how it was found.
        parts: by kind (:data:`~attnbench.harness.memory.tracker.PARTS`); they sum to ``peak``.
        largest: the largest single allocation of the step; ``None`` if it makes no tensor.
        reserved: what the CUDA allocator had taken from the driver for it; ``None`` on a CPU.
        estimated: whether it was computed on fake tensors instead of measured.
    """

    peak: int
    method: str
    parts: dict[str, int] = field(default_factory=dict)
    largest: Allocation | None = None
    reserved: int | None = None
    estimated: bool = False

    @classmethod
    def of(cls, peak: int, method: str, parts: dict[str, int], **others: Any) -> "Usage":
        """With ``workspace`` as what is left of ``peak`` after the other parts."""
        known = {part: parts.get(part, 0) for part in PARTS if part != "workspace"}
        return cls(peak, method, {**known, "workspace": peak - sum(known.values())}, **others)

    def details(self) -> dict[str, Any]:
        """All but the peak, as a record keeps it."""
        found = asdict(self)
        del found["peak"]
        return {key: value for key, value in found.items() if value is not None}
