"""BiFormer's tables of ADE20K and COCO: published beside measured, with what the models cost.

Rows are the papers' models; those that attnbench builds have counted parameters and multiply-adds at the
papers' sizes (512 × 2048, 800 × 1280), and measured mIoU or AP where they were trained.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from attnbench import metrics
from attnbench.configurations import CONFIGURATIONS, Configuration
from attnbench.heads import HEADS, RECIPES, SHORT_SIDES, TASK_OF
from attnbench.published import Figure, figures
from attnbench.record import Cell, Measurement
from attnbench.tables.measured import add_measured
from attnbench.tables.render import Column, Table

_MODELS = {"Swin-T": "swin_t", "DAT-T": "dat_t", "BiFormer-S": "biformer_s", "BiFormer-B": "biformer_b"}
_NOT_OURS = "Not a model of attnbench: published figures only."
_PUBLISHED = (
    "Published: as printed, not measured by attnbench; {source}. How: --explain ROW COLUMN, or "
    "results/published.csv."
)
_COSTS = "Dashes in params and MACs: attnbench run --layout L --mechanisms M --metrics {metrics}."
_TRAINED = (
    "Dashes in {what}: attnbench train --task {task} --layout L --mechanism M --data {data}:FOLDER "
    "--recipe {recipe}."
)
_OFF = "The counted figure does not round to the printed one, whose note says why."


@dataclass(frozen=True)
class DenseTable:
    """A table of dense models.

    Args:
        name: as ``attnbench table`` takes it.
        source: ``table`` of the lines in results/published.csv.
        dataset: whose trainings stand beside them.
        heads: columns, by name.
        sizes: tables whose lines print parameters and FLOPs of whole models.
    """

    name: str
    title: str
    source: str
    dataset: str
    heads: tuple[str, ...]
    sizes: tuple[str, ...]


DENSE_TABLES = {
    "ade20k": DenseTable(
        "ade20k",
        "ADE20K with Semantic FPN and UPerNet, costs at 512 × 2048",
        "BiFormer ADE20K table",
        "ade20k",
        ("sem_fpn", "upernet"),
        ("Swin segmentation release",),
    ),
    "coco": DenseTable(
        "coco",
        "COCO with RetinaNet and Mask R-CNN, costs at 800 × 1280",
        "BiFormer COCO table",
        "coco",
        ("retinanet", "mask_rcnn"),
        ("Swin detection release",),
    ),
}


def beside_dense(spec: DenseTable, records: Sequence[Measurement], device: str | None = None) -> Table:
    """The table of a specification; ``device`` is that of measured speeds, by default the newest record's."""
    table = Table([], pd.DataFrame(), title=spec.title, heading="Model")
    found = _published(spec)
    titles = {_name(figure.row): figure.row for figure in found}
    table.titles = titles
    models = {_identity(*CONFIGURATIONS[name]): name for name in titles if name in CONFIGURATIONS}

    def row_of(cell: Cell) -> str | None:
        head = next((head for head in spec.heads if cell.metric.startswith(f"{head}_")), None)
        if head is None or (device and cell.device not in ("meta", device)):
            return None
        trained = cell.metric.endswith("_training")
        if cell.dataset != spec.dataset if trained else cell.resolution != SHORT_SIDES[head]:
            return None
        return models.get(_identity(cell.layout, cell.mechanism, cell.options))

    places = {name: place for place, name in enumerate(titles)}
    add_measured(table, records, row_of, lambda row: (places[row],))
    table.raw = table.raw.reindex(pd.Index(places, name="row"))
    measured = {column.name: column for column in table.columns}
    table.columns = [column for head in spec.heads for column in _columns(table, head, found, measured)]
    table.columns += [column for column in measured.values() if column not in table.columns]
    for name in titles:
        if name not in CONFIGURATIONS:
            table.mark(name, "mechanism", _NOT_OURS)
    _say_how(table, spec)
    return table


def add_miou(table: Table, records: Sequence[Measurement], row_of: Callable[[Cell], str | None]) -> None:
    """Beside a published mIoU with Semantic FPN: the newest measured on ADE20K, and the gap.

    A training that is not the recipe as it stands is marked, and has no gap.
    """
    printed = "published_miou"
    place = next((i for i, column in enumerate(table.columns) if column.name == printed), None)
    if place is None:
        return
    value = metrics.get("sem_fpn_training").value("miou")
    column = Column.of_value("sem_fpn_training", value, mode="train")
    for m in records:
        row = row_of(m.cell) if m.cell.metric == "sem_fpn_training" and m.name == "miou" else None
        if row is not None and m.cell.dataset == "ade20k" and m.status == "ok":
            table.measured[row, column.name] = m
    gaps: dict[str, float] = {}
    for row in table.raw.index:
        if (row, column.name) not in table.measured:
            continue
        found, figure = table.measured[row, column.name], table.figures.get((row, printed))
        if found.value is None:
            continue
        changes = found.details.get("recipe_changes")
        if changes or found.details.get("recipe") != RECIPES["sem_fpn"]:
            told = ", ".join(f"{key}={value}" for key, value in (changes or {}).items())
            note = (
                f"Not the paper's training: recipe {found.details.get('recipe')}{told and f' with {told}'}."
            )
            table.mark(row, column.name, note)
        elif figure is not None and figure.number is not None:
            gaps[row] = found.value - figure.number
    rows = list(table.raw.index)
    known = {row: m.value for (row, name), m in table.measured.items() if name == column.name}
    table.raw[column.name] = pd.array([known.get(row) for row in rows], dtype="Float64")
    shown = [column]
    if gaps:
        gap = Column("gap_miou", "Gap mIoU (%)", 1, 1, signed=True, of=(column.name, printed))
        table.raw[gap.name] = pd.array([gaps.get(row) for row in rows], dtype="Float64")
        shown.append(gap)
    table.columns[place:place] = shown


def uncounted(
    spec: DenseTable, records: Sequence[Measurement]
) -> tuple[list[Configuration], tuple[str, ...]]:
    """The models of a table without a count at the paper's size, and the metrics that count them."""
    table = beside_dense(spec, records)
    names = [f"{head}_params" for head in spec.heads]
    columns = [c.name for c in table.columns if c.value is not None and c.value.name in names]
    missing = [
        CONFIGURATIONS[row]
        for row in table.raw.index
        if row in CONFIGURATIONS and any((row, column) not in table.measured for column in columns)
    ]
    return missing, tuple(f"{head}_costs" for head in spec.heads)


def command_for(name: str, metric: str, row: str) -> str:
    """The command that fills a cell: of a metric, in a row."""
    head = next((head for head in HEADS if metric.startswith(f"{head}_")), "")
    if name == "scenes":
        return (
            f"attnbench train --task {TASK_OF[head]} --data scenes --recipe scenes_{head} --layout swin_pico "
            f"--mechanism {row.partition('[')[0]}"
        )
    if row not in CONFIGURATIONS or not head:
        return "not a model of attnbench, so nothing can be"
    if metric.endswith("_costs"):
        return f"attnbench table {name} --fill"
    model = CONFIGURATIONS[row]
    where = f"--layout {model.layout} --mechanism {model.mechanism}"
    return f"attnbench train --task {TASK_OF[head]} --data {name}:FOLDER --recipe {RECIPES[head]} {where}"


def _published(spec: DenseTable) -> list[Figure]:
    """Figures of the table, then the sizes of its rows that others print."""
    of_table = [figure for figure in figures() if figure.table == spec.source]
    rows = {figure.row for figure in of_table}
    return of_table + [f for f in figures() if f.table in spec.sizes and f.row in rows]


def _name(row: str) -> str:
    return _MODELS.get(row) or "".join(c if c.isalnum() else "_" for c in row.lower()).strip("_")


def _identity(layout: str, mechanism: str, options: object) -> str:
    return json.dumps([layout, mechanism, options or {}], sort_keys=True)


def _columns(table: Table, head: str, found: list[Figure], measured: dict[str, Column]) -> list[Column]:
    """Columns of a head: for what is printed, the counted or measured one, the printed one and the gap."""
    shown: list[Column] = []
    printed: dict[str, list[Figure]] = {}
    for figure in found:
        if figure.head == HEADS[head]:
            printed.setdefault(_value_of(head, figure), []).append(figure)
    wanted = dict.fromkeys([f"{head}_params", f"{head}_macs", *printed])
    for name in wanted:
        kind = "costs" if name in (f"{head}_params", f"{head}_macs") else "training"
        value = metrics.get(f"{head}_{kind}").value(name)
        column = Column.of_value(f"{head}_{kind}", value, mode="" if kind == "costs" else "train")
        column = next((c for c in measured.values() if c.name == column.name), column)
        if column.name not in table.raw:
            table.raw[column.name] = pd.array([None] * len(table.raw), dtype="Float64")
        shown.append(column)
        if name in printed:
            shown += _add_published(table, column, printed[name])
    return shown


def _value_of(head: str, figure: Figure) -> str:
    """The recorded value that a printed one is of."""
    if figure.metric in ("params", "macs"):
        return f"{head}_{figure.metric}"
    return figure.metric.replace("ap", "ap_box", 1) if head == "retinanet" else figure.metric


def _add_published(table: Table, column: Column, found: list[Figure]) -> list[Column]:
    """A column of printed numbers, and one of gaps where anything was measured."""
    by_row = {_name(figure.row): figure for figure in found}
    printed = Column(f"published_{column.name}", f"Published {column.heading}", csv_only=column.csv_only)
    values = [by_row[row].value or None if row in by_row else None for row in table.raw.index]
    table.raw[printed.name] = pd.array(values, dtype="string")
    gap = Column(
        f"gap_{column.name}",
        f"Gap {column.heading}",
        1,
        column.digits,
        signed=True,
        csv_only=column.csv_only,
        of=(column.name, printed.name),
    )
    gaps: list[float | None] = []
    for row in table.raw.index:
        figure, value = by_row.get(row), table.value(row, column.name)
        if figure is not None:
            table.figures[row, printed.name] = figure
            if figure.note:
                table.mark(row, printed.name, figure.note)
        known = figure is not None and figure.number is not None and value is not None
        gaps.append(value / column.scale - figure.number if known and figure and figure.number else None)
        if known and figure and "costs" in column.metric and not figure.is_printed_of(value / column.scale):
            table.mark(row, gap.name, _OFF)
    table.raw[gap.name] = pd.array(gaps, dtype="Float64")
    return [printed, gap] if any(value is not None for value in gaps) else [printed]


def _say_how(table: Table, spec: DenseTable) -> None:
    """Notes: the commands that fill dashes, and where printed figures stand."""
    table.notes.append(_COSTS.format(metrics=",".join(f"{head}_costs" for head in spec.heads)))
    what = "mIoU" if spec.dataset == "ade20k" else "AP"
    for head in spec.heads:
        filled = _TRAINED.format(
            what=f"{HEADS[head]} {what}", task=TASK_OF[head], data=spec.dataset, recipe=RECIPES[head]
        )
        table.notes.append(filled)
    table.notes.append(_PUBLISHED.format(source=", ".join((spec.source, *spec.sizes))))
