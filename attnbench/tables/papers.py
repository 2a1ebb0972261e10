"""What stands in the papers' tables that ``attnbench table`` rebuilds: rows, configurations, columns.

The numbers are in results/published.csv, whose lines name a table; the model that attnbench builds for a
row is named in :mod:`attnbench.configurations`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from attnbench.baselines import BASELINE, TITLES
from attnbench.configurations import CONFIGURATIONS, PUBLISHED, Configuration
from attnbench.errors import UnknownNameError
from attnbench.published import Figure, figures
from attnbench.rungs import AUTHORS

RESOLUTION = 224
"""Pixels a side of every model of these tables."""


@dataclass(frozen=True)
class Line:
    """A row of a table.

    Args:
        name: of the configuration, or of the published row where there is none.
        title: as printed.
        model: what attnbench builds for it; ``None`` for a model it does not have.
        figures: published numbers, by column (see :func:`column_of_figure`).
    """

    name: str
    title: str
    model: Configuration | None
    figures: Mapping[str, Figure] = field(default_factory=dict)


@dataclass(frozen=True)
class PaperTable:
    """A table of a paper.

    Args:
        name: as ``attnbench table`` takes it.
        title: of ours.
        source: ``table`` of the lines in results/published.csv.
        models: configurations by printed row, where the key of the line does not tell.
        more: configurations that the paper has no row for.
        sizes: keys of lines elsewhere that give parameters and FLOPs of rows, where the table gives none.
        settings: modes and precisions of which memory and throughput have columns in any case.
        relative_to: row whose throughput the others' is divided by, since the hardware differs.
        rung: of the isolation ladder that the models stand on; see :meth:`on_rung`.
    """

    name: str
    title: str
    source: str
    models: Mapping[str, str] = field(default_factory=dict)
    more: Mapping[str, str] = field(default_factory=dict)
    sizes: Mapping[str, str] = field(default_factory=dict)
    settings: tuple[tuple[str, str], ...] = (("infer", "fp32"),)
    relative_to: str = ""
    rung: str = AUTHORS

    def on_rung(self, rung: str) -> "PaperTable":
        """The table with every mechanism on a rung of the isolation ladder, in the layout of Swin-T."""
        if rung == AUTHORS:
            return self
        title = f"{self.title}, rung {rung}; published accuracy is of the authors' models"
        return replace(self, rung=rung, more={}, sizes={}, title=title)

    def lines(self) -> list[Line]:
        """The rows: the paper's in its order, further ones, and the baseline."""
        found: dict[str, dict[str, Figure]] = {}
        names: dict[str, str] = {}
        for figure in figures():
            if figure.table == self.source:
                own = self.models.get(figure.row) or PUBLISHED.get(figure.key) or _plain(figure.key)
                names.setdefault(own, figure.row)
                found.setdefault(own, {})[column_of_figure(figure)] = figure
        elsewhere = {key: name for name, key in self.sizes.items()}
        for figure in figures():
            if figure.key in elsewhere and figure.metric in ("params", "macs"):
                found[elsewhere[figure.key]].setdefault(column_of_figure(figure), figure)
        lines = [Line(name, names[name], CONFIGURATIONS.get(name), found[name]) for name in found]
        lines += [Line(name, title, CONFIGURATIONS[name]) for name, title in self.more.items()]
        if self.rung != AUTHORS:
            lines = [_stand(line, self.rung) for line in lines]
        return [*lines, Line(BASELINE, TITLES[BASELINE], Configuration("swin_t", BASELINE))]


def _stand(line: Line, rung: str) -> Line:
    """A row on a rung, where all stand alike: in one layout, with the mechanism's own options.

    Published sizes are of other models then, and are left out.
    """
    model = line.model and Configuration("swin_t", line.model.mechanism, {"rung": rung})
    figures = {name: f for name, f in line.figures.items() if f.metric not in ("params", "macs")}
    return replace(line, model=model, figures=figures)


def column_of_figure(figure: Figure) -> str:
    """Name of the published column: the metric, and for throughput the setting."""
    setting = (figure.mode, figure.precision) if figure.metric == "throughput" else ()
    return "_".join(("published", figure.metric, *filter(None, setting)))


_ALL_SETTINGS = (("infer", "fp32"), ("infer", "amp"), ("train", "fp32"), ("train", "amp"))

PAPER_TABLES = {
    table.name: table
    for table in (
        PaperTable(
            "table1",
            "Table 1 of BiFormer: its variants",
            "BiFormer Table 1",
        ),
        PaperTable(
            "table5",
            "Table 5 of BiFormer: attention mechanisms in the layout of Swin-T",
            "BiFormer Table 5",
            more={"swin_t_bra": "Bi-level routing, attention alone exchanged"},
            sizes={"swin_t": "swin1_swin_t", "dat_t": "cls_dat_t", "biformer_stl": "readme_biformer_stl"},
        ),
        PaperTable(
            "table6",
            "Table 6 of BiFormer: from the Swin-T layout to BiFormer-S, step by step",
            "BiFormer Table 6",
        ),
        PaperTable(
            "table7",
            "Table 7 of BiFormer: S regions a side, k of them attended to",
            "BiFormer Table 7",
            relative_to="stl_s7_k1_4_16_49",
        ),
        PaperTable(
            "figure1",
            "Figure 1 of BiFormer: throughput",
            "BiFormer Figure 1",
            models={"Swin-T": "swin_t", "BiFormer-STL": "biformer_stl", "QuadTree-STL": "quadtree_stl"},
            settings=_ALL_SETTINGS,
            relative_to="swin_t",
        ),
        PaperTable(
            "classification",
            "BiFormer's comparison on ImageNet-1K",
            "BiFormer classification table",
        ),
    )
}

NAMES = ("ablation", *PAPER_TABLES)
"""What ``attnbench table`` renders."""


def get_paper_table(name: str) -> PaperTable:
    """The table called ``name``.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in PAPER_TABLES:
        raise UnknownNameError("table", name, NAMES)
    return PAPER_TABLES[name]


def _plain(key: str) -> str:
    """``resnet18`` of ``cls_resnet18``."""
    return key.partition("_")[2] or key
