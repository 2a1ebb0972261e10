"""``attnbench complexity``: how each mechanism's cost grows with resolution, from counts."""

from pathlib import Path

import click

from attnbench import registry
from attnbench.commands._arguments import (
    before_torch,
    format_name,
    names,
    plugin_option,
    positive,
    write,
)
from attnbench.errors import AttnbenchError
from attnbench.layouts import get_layout


@click.command()
@click.option("--mechanisms", default="", metavar="A,B", help="Names, comma-separated.  [default: all]")
@click.option("--layout", default="swin_t", show_default=True, help="Layout: channels and strides.")
@click.option("--stage", default="1", show_default=True, metavar="N", help="Stage whose maps are counted.")
@click.option(
    "--resolutions", default="", metavar="A,B", help="Pixels, three or more.  [default: 56 to 2048]"
)
@click.option("--format", "form", default="md", show_default=True, help="md, csv, latex or html.")
@click.option("--output", default="", metavar="FILE", help="Write there instead of to the terminal.")
@click.option("--plot", default="", metavar="FILE", help="Draw MACs against resolution (needs matplotlib).")
@plugin_option
def command(
    mechanisms: str, layout: str, stage: str, resolutions: str, form: str, output: str, plot: str
) -> None:
    """Count MACs at many resolutions, and fit how they grow.

    Exponents are fitted to counts on meta tensors and compared with what each mechanism declares, under a
    stated rule of how its options follow the map: BRA with S by equation 9 of its paper, and with S fixed.
    """
    chosen = names("mechanism", mechanisms, registry.names()) or tuple(registry.names())
    place, number = get_layout(layout), positive("stage", stage, 1)
    if number > len(place.depths):
        raise AttnbenchError(f"--stage must be at most {len(place.depths)} in {layout}, got {number}")
    sizes = _resolutions(resolutions)
    format_name(form)
    if plot:
        from attnbench.figures import check_plottable

        check_plottable(Path(plot))
    before_torch()
    from attnbench.harness.counting import complexity
    from attnbench.tables import growth, render

    counter = complexity.Counter(place, number - 1)
    found = [
        item for name in chosen for item in complexity.measure(counter, name, sizes or complexity.RESOLUTIONS)
    ]
    table = growth.growth(found, place, number - 1, complexity.TAIL)
    if plot:
        growth.plot(found, Path(plot), table.title)
    text = render.render(table, form)
    if output:
        write(Path(output), text)
    else:
        click.echo(text, nl=False)


def _resolutions(text: str) -> tuple[int, ...]:
    """Pixels in ascending order; empty for the default."""
    sizes = sorted({positive("resolutions", part.strip(), 0) for part in text.split(",") if part.strip()})
    if sizes and len(sizes) < 3:
        raise AttnbenchError(f"--resolutions must be three or more to fit a power law, got {text!r}")
    return tuple(sizes)
