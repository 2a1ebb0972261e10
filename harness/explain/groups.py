"""Five groups that every step splits into, whatever names its file chose: where its time goes, side by side.

Within the attention: *projections* are operators of a submodule that holds a ``weight`` of its own
(``qkv``, ``proj``, a depth-wise convolution); *data movement* those that only copy, gather or reorder; the
*attention core* is what remains, products, softmax, routing. Then *other layers* of the blocks (norms, MLP,
residuals) and the *rest of the model* (stem, merging, head). What no operator accounts for is ``outside``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from attnbench import seeds
from attnbench.harness.explain.account import Row
from attnbench.harness.explain.gap import Explained
from attnbench.harness.explain.recorder import Operator

CORE, PROJECTIONS, MOVEMENT = "attention core", "projections", "data movement"
LAYERS, MODEL = "other layers", "rest of the model"
GROUPS = (CORE, PROJECTIONS, MOVEMENT, LAYERS, MODEL)
ATTENTION = (CORE, PROJECTIONS, MOVEMENT)

_MOVES = {
    "_to_copy", "cat", "clone", "constant_pad_nd", "contiguous", "copy", "embedding", "fill", "flip",
    "gather", "im2col", "index", "index_copy", "index_put", "_index_put_impl", "index_select", "repeat",
    "roll", "scatter", "stack", "take", "take_along_dim", "zero",
}  # fmt: skip
"""Operators that compute nothing, without the underscore of those that work in place."""


@dataclass(frozen=True)
class Share:
    """A group's part of a step.

    Args:
        group: its name.
        share: of the time of all operators, the mean over the rounds.
        half_width: of its 95 % interval; infinite for a single round.
        row: sums over its operators; ``None`` if it has none.
    """

    group: str
    share: float
    half_width: float
    row: Row | None


def group_of(operator: Operator) -> str:
    """The group that an operator belongs to."""
    place = operator.place
    if place.part == "attention":
        short = operator.name.rpartition("::")[2]
        if short in _MOVES or short.removesuffix("_") in _MOVES:
            return MOVEMENT
        return PROJECTIONS if place.learned else CORE
    return LAYERS if place.part == "block" else MODEL


def split(model: Explained) -> list[Share]:
    """The groups of a model, and last the three of the attention together, as ``attention``.

    A share is of one round's operators among themselves, so that a machine which slows down between two
    rounds does not widen its interval.
    """
    account = model.account
    of = [group_of(timed.operator) for timed in account.operators]
    rows = account.rows(group_of)
    whole = account.rows(lambda operator: "attention" if group_of(operator) in ATTENTION else None)
    found = [_share(group, {group}, of, model.rounds, rows.get(group)) for group in GROUPS]
    return [*found, _share("attention", set(ATTENTION), of, model.rounds, whole.get("attention"))]


def _share(
    name: str, groups: set[str], of: Sequence[str], rounds: Sequence[Sequence[float]], row: Row | None
) -> Share:
    shares = [
        sum(s for s, group in zip(times, of, strict=True) if group in groups) / sum(times) for times in rounds
    ]
    mean = seeds.mean(shares)
    return Share(name, mean.value, mean.half_width, row)
