"""``attnbench complexity``: how each mechanism's cost grows with resolution, from counts."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from attnbench import registry
from attnbench.commands import _types
from attnbench.commands._arguments import before_torch, deliver, output_option, plugin_option
from attnbench.errors import AttnbenchError
from attnbench.layouts import get_layout

if TYPE_CHECKING:
    from attnbench.tables.points import Line


@click.command()
@click.option(
    "--mechanisms", type=_types.MECHANISMS, metavar="A,B", help="Names, comma-separated.  [default: all]"
)
@click.option(
    "--layout",
    type=_types.LAYOUT,
    default="swin_t",
    show_default=True,
    help="Layout: channels and strides.",
)
@click.option(
    "--stage",
    type=_types.Whole(1),
    default=1,
    show_default=True,
    metavar="N",
    help="Stage whose maps are counted.",
)
@click.option(
    "--resolutions",
    type=_types.Wholes(1, 2**16, count=3),
    metavar="A,B",
    help="Pixels, three or more, to fit a power law.  [default: 56 to 2048]",
)
@click.option("--format", "form", type=_types.TABLE_FORMAT, default="md", show_default=True)
@output_option
@click.option(
    "--plot", type=_types.Plot(), metavar="FILE", help="Draw MACs against resolution (needs matplotlib)."
)
@plugin_option
def command(
    mechanisms: tuple[str, ...] | None,
    layout: str,
    stage: int,
    resolutions: tuple[int, ...] | None,
    form: str,
    output: Path | None,
    plot: Path | None,
) -> None:
    """Count MACs at many resolutions, and fit how they grow.

    Exponents are fitted to counts on meta tensors and compared with what each mechanism declares, under a
    stated rule of how its options follow the map: BRA with S by equation 9 of its paper, and with S fixed.
    """
    place = get_layout(layout)
    if stage > len(place.depths):
        raise AttnbenchError(f"--stage must be at most {len(place.depths)} in {layout}, got {stage}")
    before_torch()
    from attnbench.harness.counting import complexity
    from attnbench.tables import growth, render

    counter = complexity.Counter(place, stage - 1)
    sizes = resolutions or complexity.RESOLUTIONS
    chosen = mechanisms or registry.names()
    found = [item for name in chosen for item in complexity.measure(counter, name, sizes)]
    table = growth.growth(found, place, stage - 1, complexity.TAIL)
    if plot:
        _plot(growth.lines(found), table.title, plot)
    deliver(render.render(table, form), output)


def _plot(lines: "list[Line]", title: str, path: Path) -> None:
    from attnbench.figures import growth, save_figure

    figure = growth.draw(lines, title)
    if figure is None:
        raise AttnbenchError("nothing to plot: none of these mechanisms multiplies anything")
    save_figure(figure, path)
