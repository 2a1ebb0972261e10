"""Why is it slower? A mechanism beside a baseline, timed in turn, with the gap split into its reasons."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from attnbench import statistics
from attnbench.harness.explain import ceilings as roof
from attnbench.harness.explain.account import SHARES, Account, Row, by_operator, by_phase
from attnbench.harness.explain.ceilings import Ceilings
from attnbench.harness.explain.step import Subject, event_cost
from attnbench.harness.setting import Setting
from attnbench.record import Cell
from attnbench.statistics import RatioInterval

MEANING = {
    "arithmetic": "multiply-adds at the measured peak",
    "bandwidth": "bytes moved beyond what arithmetic hides",
    "launch": "launches: Python, dispatch, empty operators",
    "rest": "operators below both ceilings",
    "outside": "outside of operators",
}
"""What each share of the gap is, in words; ``outside`` is what the account of operators does not explain."""


@dataclass(frozen=True)
class Effort:
    """Rounds of measuring: at least ``rounds``, then more until ``budget_s`` seconds have passed."""

    rounds: int = 4
    budget_s: float = 8.0
    most: int = 200


@dataclass(frozen=True)
class BlockRow:
    """A block: forward seconds of its operators, and watched from outside; ``whole``: both directions."""

    path: str
    operators_s: float
    watched_s: float
    whole: Row


@dataclass(frozen=True)
class Explained:
    """One model: what its step takes and what of it is accounted for.

    Args:
        cell: what was built; ``implementation``: what ran.
        step_s: seconds of a step that nothing watches.
        watched_s: forward seconds of each block, timed from outside, in steps that watch only that.
        account: of its operators.
        steps_s: seconds of the steps that nothing watches, by round.
        rounds: seconds of every operator in each profiled step.
    """

    cell: Cell
    implementation: str
    step_s: float
    watched_s: list[float]
    account: Account
    steps_s: list[float]
    rounds: list[list[float]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Of the mechanism, with its options."""
        return self.cell.row

    @cached_property
    def total(self) -> Row:
        """All operators."""
        return self.account.total()

    @cached_property
    def phases(self) -> dict[tuple[str, str], Row]:
        """By part and phase, the longest first."""
        rows = self.account.rows(by_phase)
        return dict(sorted(rows.items(), key=lambda item: -item[1].seconds))

    @cached_property
    def operators(self) -> dict[tuple[str, str, str, str, str], Row]:
        """By part, phase, operator, line and direction, the longest first."""
        rows = self.account.rows(by_operator)
        return dict(sorted(rows.items(), key=lambda item: -item[1].seconds))

    @cached_property
    def blocks(self) -> list[BlockRow]:
        """In the order of the model."""
        account = self.account
        whole = account.rows(lambda op: op.place.block or None)
        forward = account.rows(lambda op: op.place.block if op.direction == "forward" else None)
        forward.pop("", None)
        return [
            BlockRow(path, row.seconds, watched, whole[path])
            for (path, row), watched in zip(forward.items(), self.watched_s, strict=True)
        ]

    @property
    def outside_s(self) -> float:
        """Seconds of the step that no operator accounts for; negative if they account for too much."""
        return self.step_s - self.total.seconds

    def shares(self) -> dict[str, float]:
        """Seconds by share, the unexplained ones as ``outside``; they add up to ``step_s``."""
        return {**self.total.shares, "outside": self.outside_s}


@dataclass(frozen=True)
class Comparison:
    """A mechanism and its baseline under the same conditions.

    Args:
        subject: the mechanism.
        baseline: what it is compared with; ``None`` if it is the baseline itself.
        ceilings: of the device, measured a moment before.
        setting: the conditions.
    """

    subject: Explained
    baseline: Explained | None
    ceilings: Ceilings
    setting: Setting

    def gap(self) -> dict[str, float]:
        """Seconds that a step takes longer than the baseline's, by share; they add up to the whole gap."""
        if self.baseline is None:
            return {}
        own, other = self.subject.shares(), self.baseline.shares()
        return {share: own[share] - other[share] for share in own}

    def times(self) -> RatioInterval | None:
        """How many times as long as the baseline's a step takes; of steps that nothing watches, by round."""
        if self.baseline is None:
            return None
        return statistics.ratio_interval(self.baseline.steps_s, self.subject.steps_s)

    def verdict(self) -> str:
        """``faster`` or ``slower`` than the baseline, ``cannot tell``, or ``baseline``."""
        times = self.times()
        if self.baseline is None or times is None:
            return "baseline"
        whole = self.subject.step_s - self.baseline.step_s
        told = statistics.verdict(times)  # of times: above 1 takes longer
        if told == "faster" and whole > 0:
            return "slower"
        return "faster" if told == "slower" and whole < 0 else "cannot tell"

    def sentence(self) -> str:
        """The diagnosis; it splits a gap only where the two steps differ beyond their interval and margin."""
        own, baseline, times = self.subject, self.baseline, self.times()
        if baseline is None or times is None:
            where = self._where(max(SHARES, key=lambda share: own.shares()[share]))
            return f"{own.name} is the baseline; {where}."
        macs = own.total.macs / max(baseline.total.macs, 1)
        head = (
            f"{own.name} takes {times.ratio:.2f} times as long as {baseline.name} (95 % interval "
            f"{times.low:.2f} to {times.high:.2f}) with {macs:.2f} times its MACs"
        )
        whole = own.step_s - baseline.step_s
        if self.verdict() == "cannot tell":
            where = self._where(max(SHARES, key=lambda share: own.shares()[share]))
            return f"{head}: cannot tell them apart, so there is no gap to explain; {where}."
        return f"{head}: {self._largest_share(whole)}."

    def _largest_share(self, whole: float) -> str:
        """What most of a gap of ``whole`` seconds is, and where; in ms where other shares work against it."""
        gap, longer = self.gap(), whole > 0
        share = max(gap, key=lambda share: gap[share] if longer else -gap[share])
        what = "of the gap" if longer else "of what it saves"
        part = f"{gap[share] / whole:.0%} {what} is {share}"
        if round(gap[share] / whole, 2) > 1:
            more, less = ("more", "less") if longer else ("less", "more")
            part = (
                f"it spends {abs(gap[share]) * 1e3:.2f} ms {more} on {share} and "
                f"{abs(whole - gap[share]) * 1e3:.2f} ms {less} on the others"
            )
        return f"{part} ({MEANING[share]}); {self._where(share)}"

    def _where(self, share: str) -> str:
        """The phase and operator of the attention that a share of time lies in most."""
        if share not in SHARES:
            return "the operators do not differ as much; measure again on an idle machine"
        inside = {key: row for key, row in self.subject.phases.items() if key[0] == "attention"}
        if not inside:
            return "its attention runs no operator"
        phase, row = max(inside.items(), key=lambda item: item[1].shares[share])
        operators = {key: r for key, r in self.subject.operators.items() if key[:2] == phase}
        key, _ = max(operators.items(), key=lambda item: item[1].shares[share])
        moved, least = row.moved / 2**20, row.compulsory / 2**20
        return (
            f"most {share} time of the attention is in {phase[1]} ({row.shares[share] * 1e3:.2f} of its "
            f"{row.seconds * 1e3:.2f} ms, {key[2]} at {key[3]}), which moves {moved:.1f} MiB where "
            f"{least:.1f} are compulsory"
        )


def compare(
    cell: Cell,
    baseline: Cell | None,
    setting: Setting,
    effort: Effort | None = None,
    say: Callable[[str], None] = lambda what: None,
) -> Comparison:
    """Build, record, measure in turn and account.

    Args:
        cell: the mechanism, in a layout.
        baseline: what to compare it with.
        setting: the conditions.
        effort: how long to measure.
        say: told what is being done.

    Raises:
        AttnbenchError: a model cannot be built, or what it runs cannot be told apart.
    """
    effort = effort or Effort()
    subjects = []
    for each in filter(None, (cell, baseline)):
        say(f"{each.row}: recording the operators of a step")
        subjects.append(Subject.prepare(each, setting))
    say("measuring the ceilings of the device")
    ceilings, event_s = roof.measure(setting.device, setting.precision), event_cost(setting.device)
    say("timing")
    started, rounds = time.monotonic(), 0
    while rounds < effort.rounds or (rounds < effort.most and time.monotonic() - started < effort.budget_s):
        for subject in subjects:
            subject.round()
        rounds += 1
    done = [_explained(subject, ceilings, event_s) for subject in subjects]
    return Comparison(done[0], done[1] if baseline is not None else None, ceilings, setting)


def _explained(subject: Subject, ceilings: Ceilings, event_s: float) -> Explained:
    return Explained(
        subject.cell,
        subject.implementation,
        subject.step_s(),
        subject.block_s(),
        subject.account(ceilings, event_s),
        subject.plain_s,
        subject.rounds(event_s),
    )
