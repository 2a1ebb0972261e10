"""``attnbench visualize``: what one token reads, as a picture, or what every token reads, as a page."""

import re
from pathlib import Path
from typing import Any

import click

from attnbench import registry
from attnbench.commands import _types
from attnbench.commands._arguments import before_torch, plugin_option, settings_option, write
from attnbench.errors import AttnbenchError

DRAWN = "drawn"


class _Image(_types.Existing):
    """A file, or the word for the image that is drawn here."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path, or the word."""
        return value if value == DRAWN else super().convert(value, param, ctx)


class _Pair(_types.Wholes):
    """Two whole numbers from 0, in the order given."""

    def __init__(self, between: str) -> None:
        super().__init__(0)
        self._between = between

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """The numbers."""
        if isinstance(value, tuple):
            return value
        parts = value.split(self._between)
        if len(parts) != 2 or not all(re.fullmatch("[0-9]{1,6}", part) for part in parts):
            form = f"two whole numbers from 0 with {self._between!r} between them"
            self.fail(f"must be {form}, got {value!r}", param, ctx)
        return int(parts[0]), int(parts[1])


class _Picture(_types.OutputFile):
    """A page, or a file that matplotlib can write."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path."""
        path = super().convert(value, param, ctx)
        return path if path.suffix.lower() == ".html" else _types.Plot().convert(value, param, ctx)


@click.command()
@click.option(
    "--mechanism", type=_types.Word(), required=True, metavar="NAME|FILE.py", help="What to look into."
)
@click.option(
    "--image", type=_Image("file"), default=DRAWN, show_default=True, metavar="FILE", help="Or drawn."
)
@click.option(
    "--layout",
    type=_types.LAYOUT,
    default="swin_t",
    show_default=True,
    help="Layout the mechanism is dropped into.",
)
@click.option("--token", type=_Pair(","), metavar="X,Y", help="Column and row on the block's map, from 0.")
@click.option(
    "--block", type=_Pair("."), metavar="S.B", help="Stage and block, from 0.  [default: the last but one]"
)
@click.option(
    "--checkpoint", type=_types.Existing("file"), metavar="FILE", help="Weights.  [default: random ones]"
)
@click.option("--head", type=_types.Whole(0, 4096), metavar="N", help="From 0.  [default: the mean of all]")
@click.option(
    "--resolution", type=_types.RESOLUTION, metavar="N", help="Pixels a side.  [default: the layout's]"
)
@settings_option
@click.option(
    "--seed", type=_types.SEED, default=0, show_default=True, metavar="N", help="Of random weights."
)
@click.option(
    "--output",
    type=_Picture(),
    default="attention.png",
    show_default=True,
    metavar="FILE",
    help="A picture (.png, .pdf, ...) of one token, or a page (.html) to click tokens in.",
)
@plugin_option
def command(
    mechanism: str,
    image: str | Path,
    layout: str,
    token: tuple[int, int] | None,
    block: tuple[int, int] | None,
    checkpoint: Path | None,
    head: int | None,
    resolution: int | None,
    settings: dict[str, Any],
    seed: int,
    output: Path,
) -> None:
    """Show which tokens a query reads and how much, for any mechanism.

    The picture has the image with the token, the regions that it is routed to (BRA), what it reads, what it
    may depend on, and below, back through the blocks, what it can reach beside its measured receptive field.
    With an --output that ends in .html every token is a query, to be clicked on.
    """
    chosen = registry.meant_by(mechanism)
    if len(chosen) != 1:
        raise AttnbenchError(
            f"{mechanism} registers {', '.join(chosen)}; name one, with --plugin {mechanism}"
        )
    asked: dict[str, Any] = {"layout": layout, "image": str(image), "token": token, "head": head}
    asked |= {"resolution": resolution or 0, "options": settings, "seed": seed, "checkpoint": checkpoint}
    if block is not None:
        asked["stage"], asked["block"] = block
    before_torch()
    from attnbench.harness.visualize import explorer, picture, view

    subject = view.Asked(chosen[0], **asked)
    if output.suffix.lower() == ".html":
        write(output, explorer.page(view.every_token(subject)))
    else:
        picture.save(view.one_token(subject), output)
    click.echo(f"written: {output}")
