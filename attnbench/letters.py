"""Compact letter display: rows of a table that share a letter are not told apart."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from string import ascii_lowercase

import numpy as np
from numpy.typing import NDArray

from attnbench.statistics import p_value


def letters(
    samples_by_row: Mapping[str, Sequence[float]],
    processes: Sequence[int] | None = None,
    margin: float | None = None,
    confidence: float = 0.95,
) -> dict[str, str]:
    """Letters by row.

    All pairs are compared; of those told apart, at most 1 − ``confidence`` are expected to be mistakes
    (the false discovery rate: Benjamini and Hochberg, 1995).

    Args:
        samples_by_row: samples of each row, aligned by block, all in seconds or all in images/s.
        processes: which process of the candidates each block was taken in; None for one.
        margin: ratios closer to 1 are not told apart; None for what the processes ask for, see
            :data:`attnbench.statistics.MARGIN`.
        confidence: see above.

    Returns:
        Letters by row, in the order given; ``a`` is the group of the highest median.
    """
    rows = sorted(samples_by_row, key=lambda row: -float(np.nanmedian(samples_by_row[row])))
    pairs = list(combinations(rows, 2))
    p = np.array([p_value(samples_by_row[a], samples_by_row[b], processes, margin) for a, b in pairs])
    shown = display(rows, told_apart(pairs, p, confidence))
    return {row: shown[row] for row in samples_by_row}


def told_apart(
    pairs: Sequence[tuple[str, str]], p: NDArray[np.float64], confidence: float = 0.95
) -> set[frozenset[str]]:
    """The pairs whose p-value is a discovery at a false discovery rate of 1 − ``confidence``."""
    ranked = np.sort(p)
    passed = np.nonzero(ranked <= (1 - confidence) * np.arange(1, len(p) + 1) / max(len(p), 1))[0]
    threshold = ranked[passed[-1]] if len(passed) else -1.0
    return {frozenset(pair) for pair, value in zip(pairs, p, strict=True) if value <= threshold}


def display(rows: Sequence[str], apart: set[frozenset[str]]) -> dict[str, str]:
    """Letters by row, the best row first, given the pairs that are told apart."""
    groups = sorted(_groups(rows, apart), key=lambda group: sorted(map(rows.index, group)))
    return {row: "".join(_letter(i) for i, group in enumerate(groups) if row in group) for row in rows}


def _groups(rows: Sequence[str], apart: set[frozenset[str]]) -> list[frozenset[str]]:
    """Largest sets of rows in which no two are told apart.

    Insert and absorb: split each set that holds a pair told apart, drop sets inside others.
    Source: Piepho, 2004, "An algorithm for a letter-based representation of all-pairwise comparisons".
    """
    groups = {frozenset(rows)}
    for pair in sorted(apart, key=sorted):
        split = {group - {row} for group in groups if pair <= group for row in pair}
        kept = {group for group in groups if not pair <= group} | split
        groups = {group for group in kept if not any(group < other for other in kept)}
    return list(groups)


def _letter(index: int) -> str:
    """a to z, then aa, ab and so on in parentheses, so that no two read as one."""
    if index < 26:
        return ascii_lowercase[index]
    return f"({ascii_lowercase[index // 26 - 1]}{ascii_lowercase[index % 26]})"
