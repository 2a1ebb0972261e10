"""All figures that records are there for."""

from collections.abc import Sequence
from typing import Any

from attnbench.figures import figure1, growth, pareto, speed
from attnbench.record import Measurement
from attnbench.tables.growth import recorded
from attnbench.tables.paper_table import rebuilt
from attnbench.tables.papers import get_paper_table
from attnbench.tables.render import Table


def gallery(table: Table, records: Sequence[Measurement]) -> dict[str, Any]:
    """Figures by name; one that has nothing to show is left out.

    Args:
        table: of the mechanisms in one layout.
        records: all of them, oldest first; some figures are of other layouts.
    """
    title = f"Growth of the cost with resolution: two blocks of stage 1 in {table.layout}"
    drawn = {"speed": speed.draw(table)}
    drawn |= {f"price_{quality.name}": pareto.draw(table, quality) for quality in pareto.qualities(table)}
    drawn["figure1"] = figure1.draw(rebuilt(get_paper_table("figure1"), records))
    drawn["growth"] = growth.draw(recorded(records, table.layout), title)
    return {name: figure for name, figure in drawn.items() if figure is not None}
