"""The table of a run while it is under way: all its columns from the start, filled as cells are measured."""

from collections.abc import Sequence
from pathlib import Path

from attnbench import baselines, layouts, metrics, store
from attnbench.errors import AttnbenchError, UnknownNameError
from attnbench.record import Measurement
from attnbench.tables.ablation import PUBLISHED_COLUMNS, PUBLISHED_IN, ablation
from attnbench.tables.grid import grid
from attnbench.tables.narrow import narrow
from attnbench.tables.render import Column, Table


class Preview:
    """What a run has measured so far, as a narrow table.

    Args:
        records: the folder that the run writes to.
        chosen: mechanisms, metrics, modes, precisions, layout, resolution and baseline, as asked for.
        device: as in the run's cells.
    """

    def __init__(self, records: Path, chosen: dict, device: str) -> None:
        self._records, self._chosen, self._device = records, chosen, device
        self._where = (chosen["layout"], chosen["resolution"])
        names = [metrics.get(name) for name in chosen["metrics"]]
        self._counts = {metric.name for metric in names if not metric.on_machine}
        self._planned = [column for metric in names for column in _columns(metric, chosen)]

    def check(self, columns: Sequence[str]) -> None:
        """Raise UnknownNameError for a column that the table will not have, before anything is measured."""
        if not columns:
            return
        known = {"implementation"}
        for name in self._chosen["metrics"]:
            known |= {column.name for column in _columns(metrics.get(name), self._chosen, every=True)}
        if self._records.is_dir() and (table := self._table(self._read())):
            known |= {head.name for head in grid(table).heads}
        if self._where == PUBLISHED_IN:
            known |= set(PUBLISHED_COLUMNS)
        for name in columns:
            if name not in known:
                raise UnknownNameError("column", name, known)

    def _read(self) -> list[Measurement]:
        return store.read(self._records, lambda line: None)  # the run itself has warned

    def _table(self, found: Sequence[Measurement]) -> Table | None:
        """The table of records; ``None`` where none fits yet."""
        layout, resolution = self._where
        also = self._chosen["metrics"]
        try:
            return ablation(found, layout=layout, resolution=resolution, device=self._device, also=also)
        except AttnbenchError:
            return None

    def text(self) -> str:
        """The table; empty before the counts are in."""
        if not self._records.is_dir():
            return ""
        found = self._read()
        here = [m.cell for m in found if (m.cell.layout, m.cell.resolution) == self._where]
        counted = {(cell.metric, cell.mechanism) for cell in here}
        wanted = {(metric, name) for metric in self._counts for name in self._chosen["mechanisms"]}
        if not wanted <= counted:
            return ""
        table = self._table(found)
        if table is None:
            return ""
        baseline = self._chosen["baseline"]
        title = baselines.TITLES.get(baseline, baseline)
        return narrow(grid(table, self._planned, title), table, pending=True)


def _columns(metric: metrics.Metric, chosen: dict, every: bool = False) -> Sequence[Column]:
    """The columns that a metric will fill; ``every``: those too that are not shown unless asked for."""
    if metric.own_layout:  # it tells its layout in its record
        where = layouts.names() if every else ()
        return [Column.of_value(metric.name, v, layout=layout) for v in metric.values for layout in where]
    shown = [value for value in metric.values if every or not (value.csv_only or value.repeats)]
    if not metric.per_setting:
        return [Column.of_value(metric.name, value) for value in shown]
    return [
        Column.of_value(metric.name, value, mode=mode, precision=precision)
        for value in shown
        for mode in chosen["modes"]
        for precision in chosen["precisions"]
    ]
