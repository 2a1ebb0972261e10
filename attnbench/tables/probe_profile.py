"""Records of probes as tables: what was asked, how much is right by how far the answer is, and why."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from attnbench import datasets, registry
from attnbench import seeds as statistics
from attnbench.record import Measurement

HOPS = ("one_hop", "composed", "out_of_reach")
WORDS = {"one_hop": "one hop", "composed": "composed", "out_of_reach": "out of reach"}
LEAST_SHARE = 2.0
"""Percent of the questions below which nothing is said of a hop."""
NEAR = 2.0
"""Points within which an accuracy is called that of guessing, however many questions there were."""
ERRORS = 4.0
"""Standard errors within which it is: a table holds dozens, and three would cry wolf in some."""


@dataclass
class Row:
    """One mechanism on one probe: values by name and seed, and the details of each seed's accuracy."""

    name: str
    values: dict[str, dict[int, float]] = field(default_factory=lambda: defaultdict(dict))
    details: dict[int, dict[str, Any]] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def seeds(self) -> int:
        """How many seeds there are."""
        return len(self.values["accuracy"])

    def mean(self, name: str) -> statistics.Mean | None:
        """Of a value over the seeds; ``None`` if no seed has it."""
        found = list(self.values[name].values()) if name in self.values else []
        return statistics.mean(found) if found else None

    def share(self, hop: str) -> float:
        """Percent of the questions at a hop, the mean over seeds."""
        shares = [details["shares"].get(hop, 0.0) for details in self.details.values()]
        return sum(shares) / len(shares) if shares else 0.0

    def far(self) -> statistics.Mean | None:
        """Percent right of what lies beyond one hop, by composing blocks or out of reach; mean over seeds.

        ``None`` where next to nothing lies there.
        """
        found = []
        for seed, details in self.details.items():
            beyond = {hop: details["shares"].get(hop, 0.0) for hop in HOPS[1:]}
            if sum(beyond.values()) >= LEAST_SHARE:
                right = sum(share * self.values[hop][seed] for hop, share in beyond.items() if share)
                found.append(right / sum(beyond.values()))
        return statistics.mean(found) if found else None

    @property
    def untrained(self) -> list[int]:
        """Seeds whose training loss stayed at a guesser's."""
        return sorted(seed for seed, details in self.details.items() if not details["did_train"])

    @property
    def off_rung(self) -> str:
        """Why the mechanism does not stand on the probe's rung, but is as its authors have it; or empty."""
        return next((str(why) for d in self.details.values() if (why := d.get("off_rung"))), "")


@dataclass
class Profile:
    """All rows of one probe that were measured under the same conditions."""

    probe: str
    layout: str
    resolution: int
    budget: dict[str, Any]
    chance: float
    floor: float | None
    rows: dict[str, Row]
    conditions: str

    @property
    def without(self) -> str:
        """What a model without attention reaches, in words; in a pyramid its own row tells."""
        return "what identity has, since stages merge" if self.floor is None else f"{self.floor:.1f} %"

    @property
    def title(self) -> str:
        """What a heading calls the probe."""
        return datasets.get(self.probe).facts.title if self.probe in datasets.names() else self.probe

    @property
    def has_hops(self) -> bool:
        """Whether its answers lie in one place each, so that accuracy is split by how far that is."""
        return any(row.mean(hop) for row in self.rows.values() for hop in HOPS)

    def accuracies(self) -> dict[str, dict[int, float]]:
        """Accuracy by seed, by row."""
        return {name: dict(row.values["accuracy"]) for name, row in self.rows.items() if row.seeds}


def profiles(records: Iterable[Measurement], names: Sequence[str] = ()) -> list[Profile]:
    """The probes in the records, each under its newest conditions, rows in the order of their accuracy.

    Args:
        records: of any metric; a later record of the same cell replaces an earlier one.
        names: only these probes.
    """
    grouped: dict[str, dict[tuple[Any, ...], list[Measurement]]] = defaultdict(lambda: defaultdict(list))
    for m in records:
        cell = m.cell
        if cell.metric == "probe" and (not names or cell.dataset in names):
            alike = (cell.layout, cell.layout_digest, cell.resolution, cell.recipe, cell.dataset_digest)
            grouped[cell.dataset][alike].append(m)
    found = []
    for probe in sorted(grouped, key=lambda probe: _order(probe, names)):
        newest = max(grouped[probe].values(), key=lambda group: (_usable(group), group[-1].created))
        if _usable(newest):
            found.append(_profile(probe, newest))
    return found


def _order(probe: str, names: Sequence[str]) -> tuple[int, str]:
    return (names.index(probe) if probe in names else len(names), probe)


def _usable(group: list[Measurement]) -> bool:
    return any(m.name == "accuracy" and m.value is not None for m in group)


def _profile(probe: str, group: list[Measurement]) -> Profile:
    rows: dict[str, Row] = {}
    for m in group:
        row = rows.setdefault(m.cell.row, Row(m.cell.row))
        if m.name == "probe":
            row.failures[m.cell.seed] = m.reason
        elif m.value is None:
            row.refused[m.name] = m.reason
        else:
            row.values[m.name][m.cell.seed] = float(m.value)
            row.failures.pop(m.cell.seed, None)
            if m.name == "accuracy":
                row.details[m.cell.seed] = m.details
    first = next(m for m in group if m.name == "accuracy" and m.value is not None)
    ordered = sorted(rows.values(), key=lambda row: -(mean.value if (mean := row.mean("accuracy")) else 0.0))
    details, cell = first.details, first.cell
    return Profile(
        probe,
        cell.layout,
        cell.resolution,
        details["budget"],
        details["chance"],
        details["floor"],
        {row.name: row for row in ordered},
        f"on {cell.machine} ({cell.device}), torch {cell.torch}, data {cell.dataset_digest}",
    )


def why(row: Row, profile: Profile) -> str:
    """The reason of an accuracy, in words, as far as the split by hops tells it."""
    if not row.seeds:
        return "failed: " + "; ".join(sorted(set(row.failures.values())))
    parts = []
    hops = {
        hop: mean.value
        for hop in HOPS
        if (mean := row.mean(hop)) is not None and row.share(hop) >= LEAST_SHARE
    }
    blind = set(hops) == {"out_of_reach"}
    if row.untrained and not blind:
        some = f"in {len(row.untrained)} of {row.seeds} seeds"
        which = "in any seed" if len(row.untrained) == row.seeds else some
        losses = [f"{row.values['train_loss'][seed]:.2f}" for seed in row.untrained]
        guess = next(iter(row.details.values()))["guessing_loss"]
        parts.append(f"did not train {which} (loss {', '.join(losses)}; guessing {guess:.2f})")
    for hop, value in hops.items():
        guesses = value <= profile.chance + _scatter(row, hop, profile.chance)
        parts.append(f"{_verb(hop, value, guesses, row.name)} ({row.share(hop):.0f} %)")
    if row.off_rung:
        parts.append(f"as its authors have it: {row.off_rung}")
    if not hops:
        accuracy = row.mean("accuracy")
        assert accuracy is not None
        over = None if profile.floor is None else accuracy.value - profile.floor
        far = "an answer for the picture: no split" if over is None else f"{over:+.0f} points from the floor"
        parts.append("at the floor" if over is not None and abs(over) <= NEAR else far)
    return "; ".join(parts)


def _scatter(row: Row, hop: str, chance: float) -> float:
    """Points by which guessing the questions of a hop may be off; the test set is the same for all seeds."""
    asked = min((details.get("answers", 0) for details in row.details.values()), default=0)
    questions = asked * row.share(hop) / 100
    if not questions:
        return NEAR
    return max(NEAR, ERRORS * math.sqrt(chance * (100 - chance) / questions))


def _verb(hop: str, value: float, guesses: bool, row: str) -> str:
    """What a mechanism does with the questions of a hop; their share follows in brackets."""
    if hop == "one_hop":
        if guesses:
            return "guesses though it reads"
        return "answers what it reads" if value >= 95 else f"{value:.0f} % right in what it reads"
    if hop == "composed":
        return "does not compose" if guesses else f"composes: {value:.0f} % right"
    if guesses:
        return "guesses out of reach"
    name = row.partition("[")[0]
    chooses = name in registry.names() and registry.get(name).facts.pattern != "static"
    if chooses:  # then the choice itself may tell something, and such questions are few
        return f"{value:.0f} % right in what it did not choose"
    return f"{value:.0f} % right OUT OF REACH: reads more than it says"


def title(row: str) -> str:
    """What a table calls a row."""
    name, bracket, options = row.partition("[")
    known = registry.get(name).facts.title if name in registry.names() else name
    return f"{known} [{options}" if bracket else known
