"""Figure 1 redrawn: throughput of its models relative to Swin-T, as printed and as measured here."""

from pathlib import Path

import pandas as pd

from attnbench.figures import new_figure, save_figure
from attnbench.tables.render import Table

_SETTINGS = (("infer", "fp32"), ("infer", "amp"), ("train", "fp32"), ("train", "amp"))


def plot(table: Table, path: Path) -> None:
    """One group of bars per setting; hatched bars are printed, plain ones measured.

    The hardware differs, so all bars are over Swin-T's of the same source; what is missing has no bar.

    Raises:
        AttnbenchError: the file cannot be written.
    """
    figure, axes = new_figure(7.5, 4.0)
    rows = [row for row in table.raw.index if _has_any(table, str(row))]
    width = 0.8 / max(1, 2 * len(rows))
    for number, row in enumerate(rows):
        for half, (prefix, hatch, what) in enumerate((("published_", "//", "printed"), ("", "", "measured"))):
            bars = [
                (
                    place + (2 * number + half) * width,
                    table.raw.loc[row, f"{prefix}relative_{mode}_{precision}"],
                )
                for place, (mode, precision) in enumerate(_SETTINGS)
            ]
            known = [(x, float(height)) for x, height in bars if not pd.isna(height)]
            if known:
                label = f"{table.titles.get(str(row), str(row))}, {what}"
                axes.bar(*zip(*known, strict=True), width, color=f"C{number}", hatch=hatch, label=label)
    axes.set_xticks([place + 0.4 - width / 2 for place in range(len(_SETTINGS))])
    axes.set_xticklabels([f"{mode} {precision.upper()}" for mode, precision in _SETTINGS])
    axes.set(ylabel="Throughput over Swin-T's")
    figure.suptitle(table.title, fontsize=9)
    axes.axhline(1.0, color="black", linewidth=0.5)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside right upper", fontsize=7)
    save_figure(figure, path)


def _has_any(table: Table, row: str) -> bool:
    names = [f"{p}relative_{mode}_{precision}" for p in ("", "published_") for mode, precision in _SETTINGS]
    return bool(table.raw.loc[row, names].notna().any())
