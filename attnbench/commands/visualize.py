"""``attnbench visualize``: what one token reads, as a picture, or what every token reads, as a page."""

from pathlib import Path
from typing import Any

import click

from attnbench import registry
from attnbench.commands._arguments import before_torch, option, plugin_option, positive, write
from attnbench.errors import AttnbenchError


@click.command()
@click.option("--mechanism", default="", metavar="NAME|FILE.py", help="What to look into.  [required]")
@click.option("--image", default="drawn", show_default=True, metavar="FILE", help="An image, or: drawn.")
@click.option("--layout", default="swin_t", show_default=True, help="Layout the mechanism is dropped into.")
@click.option("--token", default="", metavar="X,Y", help="Column and row on the block's map, from 0.")
@click.option(
    "--block", default="", metavar="S.B", help="Stage and block, from 0.  [default: the last but one]"
)
@click.option("--checkpoint", default="", metavar="FILE", help="Weights.  [default: random ones]")
@click.option("--head", default="", metavar="N", help="From 0.  [default: the mean of all]")
@click.option("--resolution", default="", metavar="N", help="Pixels a side.  [default: the layout's]")
@click.option("--set", "settings", multiple=True, metavar="OPTION=VALUE", help="Option of the mechanism.")
@click.option("--seed", default="0", show_default=True, metavar="N", help="Of random weights.")
@click.option(
    "--output",
    default="attention.png",
    show_default=True,
    metavar="FILE",
    help="A picture (.png, .pdf, ...) of one token, or a page (.html) to click tokens in.",
)
@plugin_option
def command(
    mechanism: str,
    image: str,
    layout: str,
    token: str,
    block: str,
    checkpoint: str,
    head: str,
    resolution: str,
    settings: tuple[str, ...],
    seed: str,
    output: str,
) -> None:
    """Show which tokens a query reads and how much, for any mechanism.

    The picture has the image with the token, the regions that it is routed to (BRA), what it reads, what it
    may depend on, and below, back through the blocks, what it can reach beside its measured receptive field.
    With an --output that ends in .html every token is a query, to be clicked on.
    """
    from attnbench.figures import check_plottable
    from attnbench.layouts import get_layout

    if not mechanism:
        raise AttnbenchError("visualize needs --mechanism NAME; 'attnbench list' shows the names")
    path = Path(output)
    asked: dict[str, Any] = {
        "layout": get_layout(layout).name,
        "image": image,
        "token": _pair("token", token, ",") if token else None,
        "head": positive("head", head, 0, least=0) if head else None,
        "resolution": positive("resolution", resolution, 0),
        "options": dict(option(setting) for setting in settings),
        "seed": positive("seed", seed, 0, least=0),
        "checkpoint": Path(checkpoint) if checkpoint else None,
    }
    if block:
        asked["stage"], asked["block"] = _pair("block", block, ".")
    page = path.suffix.lower() == ".html"
    if not page:
        check_plottable(path)
    before_torch()
    from attnbench.harness.visualize import explorer, picture, view

    chosen = registry.meant_by(mechanism)
    if len(chosen) != 1:
        raise AttnbenchError(
            f"{mechanism} registers {', '.join(chosen)}; name one, with --plugin {mechanism}"
        )
    subject = view.Asked(chosen[0], **asked)
    if page:
        write(path, explorer.page(view.every_token(subject)))
    else:
        picture.save(view.one_token(subject), path)
    click.echo(f"written: {path}")


def _pair(name: str, text: str, between: str) -> tuple[int, int]:
    """Two whole numbers; AttnbenchError where the text is none."""
    first, _, second = text.partition(between)
    if not (first.isdecimal() and second.isdecimal()):
        form = f"two whole numbers from 0 with {between!r} between them"
        raise AttnbenchError(f"--{name} must be {form}, got {text!r}")
    return int(first), int(second)
