"""The rungs of the isolation ladder by name. :mod:`attnbench.harness.models.rungs` builds them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attnbench.errors import AttnbenchError

if TYPE_CHECKING:
    from attnbench.record import Measurement

AUTHORS = "authors"
RUNGS = ("bare", "bias", "local", AUTHORS)


def on_rung(records: "Sequence[Measurement]", rung: str) -> "list[Measurement]":
    """The records that were measured on a rung, as if there were no other: their rows do not name it.

    Raises:
        AttnbenchError: there are none.
    """
    found = []
    for record in records:
        options = dict(record.cell.options)
        if options.pop("rung", AUTHORS) == rung:
            cell = record.cell.model_copy(update={"options": options})
            found.append(record.model_copy(update={"cell": cell}))
    if not found:
        raise AttnbenchError(f"no record is of rung {rung!r}; run 'attnbench run --set rung={rung}' first")
    return found
