"""The table of a run while it is under way: all its columns from the start, filled as cells are measured."""

from collections.abc import Sequence
from pathlib import Path

from attnbench import baselines, metrics, store
from attnbench.errors import AttnbenchError
from attnbench.tables.ablation import ablation
from attnbench.tables.grid import grid
from attnbench.tables.narrow import narrow
from attnbench.tables.render import Column


class Preview:
    """What a run has measured so far, as a narrow table.

    Args:
        records: the folder that the run writes to.
        chosen: mechanisms, metrics, modes, precisions, layout, resolution and baseline, as asked for.
        device: as in the run's cells.
    """

    def __init__(self, records: Path, chosen: dict, device: str) -> None:
        self._records, self._chosen, self._device = records, chosen, device
        names = [metrics.get(name) for name in chosen["metrics"]]
        self._counts = {metric.name for metric in names if not metric.on_machine}
        self._planned = [column for metric in names for column in _columns(metric, chosen)]

    def text(self) -> str:
        """The table; empty before the counts are in."""
        if not self._records.is_dir():
            return ""
        found = store.read(self._records, lambda line: None)  # the run itself has warned
        where = (self._chosen["layout"], self._chosen["resolution"])
        counted = {
            (m.cell.metric, m.cell.mechanism) for m in found if (m.cell.layout, m.cell.resolution) == where
        }
        wanted = {(metric, name) for metric in self._counts for name in self._chosen["mechanisms"]}
        if not wanted <= counted:
            return ""
        try:
            table = ablation(
                found, layout=where[0], resolution=where[1], device=self._device, also=self._chosen["metrics"]
            )
        except AttnbenchError:
            return ""
        baseline = self._chosen["baseline"]
        title = baselines.TITLES.get(baseline, baseline)
        return narrow(grid(table, self._planned, title), table, pending=True)


def _columns(metric: metrics.Metric, chosen: dict) -> Sequence[Column]:
    """The columns that a metric will fill."""
    if metric.own_layout:
        return []  # it tells its layout in its record
    shown = [value for value in metric.values if not value.csv_only and not value.repeats]
    if not metric.per_setting:
        return [Column.of_value(metric.name, value) for value in shown]
    return [
        Column.of_value(metric.name, value, mode=mode, precision=precision)
        for value in shown
        for mode in chosen["modes"]
        for precision in chosen["precisions"]
    ]
