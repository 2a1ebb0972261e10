"""What papers print: results/published.csv, one number a line, with who trained it and how.

A number is given as it is printed, also where it is wrong; then its note says so.
"""

import csv
import functools
from pathlib import Path
from typing import NamedTuple

_FILE = Path(__file__).parent / "results" / "published.csv"
if not _FILE.is_file():  # a checkout without symbolic links, not installed
    _FILE = Path(__file__).parent.parent / "results" / "published.csv"


class Figure(NamedTuple):
    """One number of a paper, its columns those of the file.

    Args:
        key: of the line of a table; a model's name in it need not be its own.
        table, row, column: where it stands. A slide or a release counts as a table.
        metric: what it is: params, macs, top1, miou, throughput and so on.
        value: as printed; empty where it cannot be read, and then ``note`` says why.
        mechanism: of this suite, where the number may stand beside it in the Swin-T layout.
        paper, arxiv, year: of what was measured, not of the table.
        trained_by: whose training it is, which often is not the table's authors.
        note: where sources disagree, or the number is wrong or hard to read.
    """

    key: str
    table: str
    row: str
    column: str
    metric: str
    value: str
    unit: str
    mechanism: str
    paper: str
    arxiv: str
    year: str
    trained_by: str
    schedule: str
    head: str
    resolution: str
    mode: str
    precision: str
    hardware: str
    url: str
    note: str

    @property
    def number(self) -> float | None:
        """The value in its unit; ``None`` if it cannot be read."""
        return float(self.value) if self.value else None

    def is_printed_of(self, value: float) -> bool:
        """Whether a value, in the figure's unit, rounds to what is printed."""
        return f"{value:.{len(self.value.partition('.')[2])}f}" == self.value

    def source(self) -> str:
        """Table, row and column in words."""
        return f"{self.table}, row {self.row!r}, column {self.column!r}"


@functools.cache
def figures() -> tuple[Figure, ...]:
    """All numbers, in the order of the file."""
    with _FILE.open(encoding="utf-8", newline="") as file:
        return tuple(Figure(**row) for row in csv.DictReader(file))


@functools.cache
def of_mechanisms(metric: str) -> dict[str, Figure]:
    """The figures that stand beside mechanisms in the Swin-T layout, by mechanism."""
    return {figure.mechanism: figure for figure in figures() if figure.metric == metric and figure.mechanism}
