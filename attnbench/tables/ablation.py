"""Tables from records: measured columns, published ones beside them. Needs no torch.

Numbers measured under different conditions never share a column: each column shows the conditions of its
newest records, which the notes below the table state, and the rest is counted there.
"""

import csv
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from attnbench import certificates, references
from attnbench.errors import AttnbenchError, UnknownNameError
from attnbench.record import Cell, Measurement
from attnbench.render import Column, Table

_PUBLISHED = Path(__file__).parent.parent / "results" / "published.csv"
if not _PUBLISHED.is_file():  # a checkout without symbolic links, not installed
    _PUBLISHED = Path(__file__).parent.parent.parent / "results" / "published.csv"


def ablation(
    records: Sequence[Measurement],
    *,
    layout: str | None = None,
    resolution: int | None = None,
    device: str | None = None,
    certified: Callable[[str, str], bool] = certificates.is_valid,
) -> Table:
    """The ablation table of attention mechanisms, after BiFormer's Table 5.

    Args:
        records: measurements, oldest first.
        layout, resolution, device: which to show; by default those of the newest record.
        certified: whether a mechanism's source, given by name and digest, passed ``attnbench check``.

    Returns:
        One row per mechanism; published accuracy (ImageNet-1K top-1, ADE20K mIoU) in the last columns.

    Raises:
        AttnbenchError: no record fits.
    """
    static = [m for m in records if m.cell.metric != "accuracy"] or list(records)
    layouts = {m.cell.layout for m in static}
    if layout is not None and layout not in layouts:
        raise UnknownNameError("layout among the records", layout, layouts)
    layout = layout or next((m.cell.layout for m in reversed(static)), None)
    chosen = [m for m in records if m.cell.metric == "accuracy" or m.cell.layout == layout]
    sizes = [m.cell.resolution for m in chosen if m.cell.metric != "accuracy"]
    size = resolution or (sizes[-1] if sizes else None)
    chosen = [m for m in chosen if m.cell.metric == "accuracy" or m.cell.resolution == size]
    if device is not None:
        chosen = [m for m in chosen if m.cell.device in ("meta", device)]
    if not chosen:
        raise AttnbenchError("no record fits; run 'attnbench run' first, or ask for other conditions")
    title = f"Attention mechanisms in {layout}, {size} × {size} px"
    table = Table([], pd.DataFrame(), title=title, layout=layout, resolution=size)
    _fill(table, chosen)
    _add_published(table)
    _add_certified(table, chosen, certified)
    return table


def _column(cell: Cell, name: str) -> Column:
    """The column that a measurement belongs to."""
    mode, precision = cell.mode, cell.precision
    setting = f"{mode} {precision.upper()}"
    return {
        "parameters": Column("parameters", "Params (M)", 1e6, 2),
        "macs": Column("macs", "MACs (G)", 1e9, 4),
        "macs_counted": Column("macs_counted", "MACs counted (G)", 1e9, 4),
        **{f"macs_{kind}": _macs_column(kind) for kind in _MORE_MACS},
        "peak_memory": Column(f"peak_memory_{mode}_{precision}_bytes", f"Memory {setting} (MiB)", 2**20, 0),
        "throughput": Column(f"images_per_s_{mode}_{precision}", f"Images/s {setting}", 1, 1),
        "top1": Column(f"top1_{cell.layout}_percent", f"Top-1 {cell.layout} (%)", 1, 1),
    }[name]


def _macs_column(kind: str) -> Column:
    return Column(f"macs_{kind}", f"MACs {kind.replace('_', ' ')} (G)", 1e9, 4, csv_only=True)


_MORE_MACS = ("issued", "useful", "dense", "backward", "backward_counted")
_ALL_MACS = ("macs", "macs_counted", *(f"macs_{kind}" for kind in _MORE_MACS))
_ORDER = ("parameters", *_ALL_MACS, "peak_memory", "throughput", "top1")
_FAILED_AS = {"params": "parameters", "memory": "peak_memory", "accuracy": "top1"}


def _fill(table: Table, records: Sequence[Measurement]) -> None:
    """Measured columns: the newest conditions of each, the newest value of each cell of the table."""
    by_column: dict[Column, list[Measurement]] = {}
    ranks: dict[Column, tuple[int, str, str]] = {}
    for m in records:
        name = _FAILED_AS.get(m.name, m.name)
        column = _column(m.cell, name)
        by_column.setdefault(column, []).append(m)
        ranks[column] = (_ORDER.index(name), m.cell.mode, {"fp32": "0"}.get(m.cell.precision, "1"))
    table.columns = sorted(by_column, key=lambda column: ranks[column])
    values: dict[str, dict[str, float | int | None]] = {}
    implementations: dict[str, set[str]] = {}
    conditions: Counter[str] = Counter()
    left_out = 0
    for column in table.columns:
        of_column = by_column[column]
        newest = _conditions(of_column[-1].cell)
        for m in of_column:
            if _conditions(m.cell) != newest:
                left_out += 1
                continue
            row = m.cell.row
            values.setdefault(row, {})[column.name] = m.value if m.status == "ok" else None
            table.marks.pop((row, column.name), None)
            _bound(table, row, column, m)
            if m.status != "ok" and (m.value is not None or not column.csv_only):
                table.mark(row, column.name, f"{m.status.replace('_', ' ')}: {m.reason}")
            elif m.status == "ok" and m.implementation and column.name.startswith(("images", "peak", "top1")):
                implementations.setdefault(row, set()).add(m.implementation)
        conditions[newest] += 1
    rows = sorted(values, key=_table_5_order)
    frame = pd.DataFrame(index=pd.Index(rows, name="mechanism"))
    for column in table.columns:
        cells = [values[row].get(column.name) for row in rows]
        whole = all(isinstance(value, int) for value in cells if value is not None)
        frame[column.name] = pd.array(cells, dtype="Int64" if whole else "Float64")
        if column.name == "macs_counted":
            frame["macs_lower_bound"] = [_unknown_operators(table, row) for row in rows]
    if any(implementations.values()):
        table.columns.append(Column("implementation", "Implementation"))
        frame["implementation"] = [" ".join(sorted(implementations.get(row, ()))) or None for row in rows]
    table.raw = frame
    table.notes += [f"Conditions: {text}." for text in conditions if text]
    if left_out:
        table.notes.append(f"{left_out} older records under other conditions are not shown.")


def _bound(table: Table, row: str, column: Column, m: Measurement) -> None:
    """Note that a count is a lower bound, or that a formula stands beside one."""
    table.at_least.pop((row, column.name), None)
    if m.details.get("lower_bound"):
        table.at_least[row, column.name] = m.details["uncounted"]
        if not column.csv_only:
            names = ", ".join(m.details["uncounted"])
            table.mark(row, column.name, f"lower bound: no formula is known for {names}")
    elif m.details.get("unconfirmed") and not column.csv_only:
        table.mark(row, column.name, "by the mechanism's formula alone; the count is a lower bound")


def _unknown_operators(table: Table, row: str) -> str | None:
    """Operators that make a count of a row a lower bound, separated by spaces."""
    known = {operator for (r, _), operators in table.at_least.items() if r == row for operator in operators}
    return " ".join(sorted(known)) or None


def _conditions(cell: Cell) -> str:
    """What must be alike for two numbers to stand in one column, as a note says it."""
    if cell.device == "meta":
        return ""
    parts = {
        "throughput": f"throughput at batch {cell.batch_size}, preset {cell.preset}",
        "memory": f"memory at batch {cell.batch_size}",
        "accuracy": f"accuracy by training {cell.layout} on digits, preset {cell.preset}, seed {cell.seed}",
    }
    return f"{parts[cell.metric]}, on {cell.machine} ({cell.device}), torch {cell.torch}, impl {cell.impl}"


def published(metric: str) -> dict[str, dict[str, str]]:
    """Rows of results/published.csv by mechanism, for ``top1``, ``miou``, ``params`` or ``macs``."""
    with _PUBLISHED.open(encoding="utf-8", newline="") as file:
        return {row["mechanism"]: row for row in csv.DictReader(file) if row["metric"] == metric}


def _add_published(table: Table) -> None:
    """Published columns; a measured figure that does not round to the published one gets the reason why."""
    of_layout = "parameters" in table.raw and table.layout == "swin_t" and table.resolution == 224
    for metric, heading, measured, scale in _PUBLISHED_COLUMNS:
        if measured and not (of_layout and measured in table.raw):
            continue  # the figure belongs to the Swin-T layout at 224 × 224
        rows = published(metric)
        column = Column(f"published_{metric}", f"Published {heading}", 1, -1 if measured else 1)
        values = [float(rows[name]["value"]) if name in rows else None for name in table.raw.index]
        table.raw[column.name] = pd.array(values, dtype="Float64")
        table.columns.append(column)
        for name in table.raw.index.intersection(list(rows)) if measured else ():
            text, value = rows[name]["value"], table.raw.loc[name, measured]
            if value is not pd.NA and f"{value / scale:.{len(text.partition('.')[2])}f}" != text:
                why = rows[name]["note"] or "no reason is known"
                table.mark(name, column.name, f"{rows[name]['table']} prints {text}: {why}.")
    table.notes.append(
        "Published: accuracy from BiFormer Table 5 (arXiv 2303.08810), parameters and MACs of the authors' "
        "models in this layout; sources in results/published.csv. Not measured by attnbench."
    )


_PUBLISHED_COLUMNS = (
    ("params", "params (M)", "parameters", 1e6),
    ("macs", "MACs (G)", "macs", 1e9),
    ("top1", "IN-1K top-1 (%)", "", 1),
    ("miou", "ADE20K mIoU (%)", "", 1),
)


def _add_certified(
    table: Table, records: Sequence[Measurement], certified: Callable[[str, str], bool]
) -> None:
    """A column for a CSV, and a mark on each row whose sources have not all passed ``attnbench check``.

    A certificate is of the default options, so a row with others has none.
    """
    newest = {(m.cell.row, _column(m.cell, _FAILED_AS.get(m.name, m.name))): m.cell for m in records}
    cells = {row: [cell for (of, _), cell in newest.items() if of == row] for row in table.raw.index}
    valid = {
        row: all(not cell.options and certified(cell.mechanism, cell.source) for cell in of_row)
        for row, of_row in cells.items()
    }
    table.raw["certified"] = pd.array(list(valid.values()), dtype="boolean")
    note = "Uncertified: 'attnbench check' has not passed for this source and these options."
    for row in valid:
        if not valid[row] and not references.is_reference(row):
            table.mark(row, "mechanism", note)


def _table_5_order(row: str) -> tuple[int, str]:
    known, name = list(published("top1")), row.partition("[")[0]
    return (known.index(name) if name in known else len(known), row)
