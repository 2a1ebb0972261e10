"""Figures for a paper, one file each. They need matplotlib: ``pip install 'attnbench[report]'``."""

from attnbench.figures.files import check_plottable, new_figure, save_figure

__all__ = ["check_plottable", "new_figure", "save_figure"]
