"""Columns beside throughput: the ratio to the baseline with its interval, and letters.

Only rows of one group are compared, whose samples were taken in the same blocks and are paired by block. A
block that one row lacks is NaN and drops out of that row's pairs alone; rows whose numbers of samples
differ cannot be paired, and get no letter.
"""

from collections import Counter
from math import nan

import pandas as pd

from attnbench import metrics
from attnbench.baselines import is_baseline
from attnbench.certificates import speed_refusal
from attnbench.letters import letters
from attnbench.record import Measurement
from attnbench.tables.render import Column, Table

WITHHELD = "withheld"
"""Key of a measurement's details: why its value is not shown."""
MOST_ROWS = 48
"""Rows that letters are given for; pairs grow with the square."""

_LETTERS = "Letters: rows that share one are not told apart at the 95 % level, compared block by block."

_SEVERAL = (
    "{heading}: of {count} groups of blocks, taken at different times. Ratios to the baseline compare rows "
    "of different groups; images/s do so only roughly."
)


def withhold_unequal(m: Measurement) -> Measurement:
    """A throughput as it is, or without its value where its implementation is not known to equal eager."""
    of = metrics.find(m.cell.metric, m.name)
    if of is None or not of[1].paired:
        return m
    if m.status != "ok" or not m.implementation or is_baseline(m.cell.mechanism):
        return m
    cell = m.cell
    why = speed_refusal(
        cell.mechanism,
        cell.source,
        m.implementation,
        cell.device,
        cell.precision,
        options=cell.options,
        mode=cell.mode,
    )
    if not why:
        return m
    return m.model_copy(update={"value": None, "samples": [], "details": {WITHHELD: why}})


def add_speed(table: Table) -> None:
    """Put ratio, verdict and letters behind each column of throughput that has them."""
    for column in list(table.columns):
        if column.value is not None and column.value.paired:
            found = {row: m for row in table.raw.index if (m := table.measured.get((row, column.name)))}
            fine = {row: m for row, m in found.items() if m.status == "ok" and WITHHELD not in m.details}
            _add_ratio(table, column, fine)
            _add_letters(table, column, fine)


def _add_ratio(table: Table, column: Column, found: dict[str, Measurement]) -> None:
    compared = {row: m.details for row, m in found.items() if m.details.get("ratio") is not None}
    if not compared:
        return
    suffix, setting = column.suffix, column.setting
    baselines = Counter(str(details["baseline"]) for details in compared.values())
    heading = f"Ratio {setting} to {' or '.join(sorted(baselines))}"
    shown = {row: _ratio(details) for row, details in compared.items()}
    columns = [Column(f"speed_{suffix}", heading, of=(column.name,))]
    table.raw[columns[0].name] = [shown.get(row) for row in table.raw.index]
    for name in ("ratio", "ratio_low", "ratio_high"):
        columns.append(
            Column(f"{name}_{suffix}", f"{name} {setting}", 1, 3, csv_only=True, of=(column.name,))
        )
        values = [compared.get(row, {}).get(name) for row in table.raw.index]
        table.raw[columns[-1].name] = pd.array(values, dtype="Float64")
    _insert(table, column, columns)


def _ratio(details: dict) -> str:
    """``0.93 [0.91, 0.95] slower``."""
    verdict = str(details.get("verdict", ""))
    if verdict == "baseline" or details.get("ratio_low") is None:
        return verdict or f"{details['ratio']:.3f}"
    interval = f"[{details['ratio_low']:.3f}, {details['ratio_high']:.3f}]"
    return f"{details['ratio']:.3f} {interval} {verdict}".rstrip()


def _add_letters(table: Table, column: Column, found: dict[str, Measurement]) -> None:
    """Letters of the newest group; a row of another group says so."""
    grouped = {row: m for row, m in found.items() if m.details.get("group")}
    if not grouped:
        return
    groups = {m.details["group"] for m in grouped.values()}
    if len(groups) > 1:
        table.notes.append(_SEVERAL.format(heading=column.heading, count=len(groups)))
    newest = max(grouped.values(), key=lambda m: m.created).details["group"]
    members = {row: m for row, m in grouped.items() if m.details["group"] == newest}
    most = Counter(len(m.samples) for m in members.values()).most_common(1)[0][0]
    samples = {row: _whole(m.samples) for row, m in members.items() if len(m.samples) == most > 1}
    if not 2 <= len(samples) <= MOST_ROWS:
        return
    own = Column(f"letters_{column.suffix}", f"Letters {column.setting}", of=(column.name,))
    details = members[next(iter(samples))].details
    margins = [m.details["margin"] for m in members.values() if "margin" in m.details]
    known = letters(samples, details.get("process_of_block"), max(margins, default=None))
    table.raw[own.name] = [known.get(row) for row in table.raw.index]
    _insert(table, column, [own])
    for row, m in found.items():
        if m.details.get("group") != newest:
            table.mark(
                row, own.name, "measured in another group of blocks: not to be compared within the column"
            )
        elif row not in samples:
            table.mark(row, own.name, "has another number of blocks than the rest: cannot be paired")
    if _LETTERS not in table.notes:
        table.notes.append(_LETTERS)


def _whole(samples: list[float]) -> list[float]:
    """Samples with NaN for one that is missing, not a number above zero."""
    return [sample if sample is not None and sample > 0 else nan for sample in samples]


def _insert(table: Table, after: Column, columns: list[Column]) -> None:
    place = table.columns.index(after) + 1
    table.columns[place:place] = columns
