"""The account of a step: its time by operator, phase and block, with what that time could have been.

The time of an operator is split into four shares that add up to it:
*arithmetic*: its MACs at the measured peak; *bandwidth*: what its bytes take longer than that at the measured
bandwidth; *launch*: the gap before it, and of what is left the cost of an operator that does nothing;
*rest*: what none of these explains, such as a kernel that reaches neither ceiling.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from attnbench.harness.explain.ceilings import Ceilings
from attnbench.harness.explain.recorder import Operator
from attnbench.harness.explain.traffic import compulsory

Key = TypeVar("Key", bound=Hashable)
SHARES = ("arithmetic", "bandwidth", "launch", "rest")


@dataclass(frozen=True)
class Timed:
    """An operator with its time, in seconds, and its launches."""

    operator: Operator
    busy: float
    gap: float
    launches: int

    @property
    def seconds(self) -> float:
        """All the time it is charged with."""
        return self.busy + self.gap

    def shares(self, ceilings: Ceilings) -> dict[str, float]:
        """Its time by share; see the head of this file."""
        op = self.operator
        arithmetic = min(self.busy, ceilings.arithmetic(op.macs))
        floor = min(self.busy, ceilings.floor(op.macs, op.traffic.moved))
        launch = min(self.busy - floor, ceilings.launch_s * self.launches)
        return {
            "arithmetic": arithmetic,
            "bandwidth": floor - arithmetic,
            "launch": self.gap + launch,
            "rest": self.busy - floor - launch,
        }


@dataclass(frozen=True)
class Row:
    """Sums over some operators of one step.

    Args:
        seconds: all; ``backward_s``: of the backward pass, contained in it.
        calls: of operators; ``launches``: kernels on CUDA, else calls.
        macs: multiply-adds issued.
        moved, compulsory: bytes; see :mod:`attnbench.harness.explain.traffic`.
        floor_s: on the roof, each operator for itself.
        shares: seconds by share.
    """

    seconds: float
    backward_s: float
    calls: int
    launches: int
    macs: int
    moved: int
    compulsory: int
    floor_s: float
    shares: dict[str, float] = field(default_factory=dict)

    @property
    def intensity(self) -> float:
        """FLOP (two per multiply-add) by byte moved."""
        return 2 * self.macs / self.moved if self.moved else 0.0

    @property
    def bound(self) -> str:
        """The largest share of its time."""
        return max(self.shares, key=lambda share: self.shares[share])


@dataclass(frozen=True)
class Account:
    """A step, operator by operator.

    Args:
        operators: in order, with their times.
        ceilings: of the device.
        tail_s: of the step after its last operator.
    """

    operators: list[Timed]
    ceilings: Ceilings
    tail_s: float = 0.0

    def rows(self, key: Callable[[Operator], Key | None]) -> dict[Key, Row]:
        """Operators grouped by a key, in the order they come; those with ``None`` are left out.

        Bytes are compulsory to a group within one block and direction, and then added up: no kernel could
        span two blocks.
        """
        groups: dict[Key, list[int]] = defaultdict(list)
        for index, timed in enumerate(self.operators):
            name = key(timed.operator)
            if name is not None:
                groups[name].append(index)
        return {name: self._row(members) for name, members in groups.items()}

    def total(self) -> Row:
        """All operators together."""
        return self._row(range(len(self.operators)))

    @property
    def seconds(self) -> float:
        """Of all operators and the tail."""
        return sum(timed.seconds for timed in self.operators) + self.tail_s

    def _row(self, members: Iterable[int]) -> Row:
        members = list(members)
        chosen = [self.operators[index] for index in members]
        places: dict[tuple[str, str], list[int]] = defaultdict(list)
        for index in members:
            operator = self.operators[index].operator
            places[operator.place.block, operator.direction].append(index)
        traffic = [timed.operator.traffic for timed in self.operators]
        shares = [timed.shares(self.ceilings) for timed in chosen]
        return Row(
            seconds=sum(timed.seconds for timed in chosen),
            backward_s=sum(timed.seconds for timed in chosen if timed.operator.direction == "backward"),
            calls=len(chosen),
            launches=sum(timed.launches for timed in chosen),
            macs=sum(timed.operator.macs for timed in chosen),
            moved=sum(timed.operator.traffic.moved for timed in chosen),
            compulsory=sum(compulsory(list(places.values()), traffic)),
            floor_s=sum(
                self.ceilings.floor(timed.operator.macs, timed.operator.traffic.moved) for timed in chosen
            ),
            shares={share: sum(of[share] for of in shares) for share in SHARES},
        )


def by_phase(operator: Operator) -> tuple[str, str]:
    """Key of a phase: part and phase."""
    return operator.place.part, operator.place.phase


def by_operator(operator: Operator) -> tuple[str, str, str, str, str]:
    """Key of one operator at one place of the code: part, phase, operator, line and direction."""
    return *by_phase(operator), operator.name, operator.line, operator.direction


def mean(samples: Sequence[Sequence[float]]) -> list[float]:
    """The mean of each column: unlike medians, means of parts add up to the mean of the whole."""
    return [sum(column) / len(samples) for column in zip(*samples, strict=True)]
