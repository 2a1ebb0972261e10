"""``attnbench ladder``: which rungs of isolation each mechanism can stand on."""

import click

from attnbench import markdown, registry
from attnbench.commands import _types
from attnbench.commands._arguments import plugin_option
from attnbench.layouts import get_layout
from attnbench.rungs import RUNGS


@click.command()
@click.option(
    "--mechanisms", type=_types.MECHANISMS, metavar="A,B", help="Names, comma-separated.  [default: all]"
)
@click.option(
    "--layout",
    type=_types.LAYOUT,
    default="swin_t",
    show_default=True,
    help="Layout the mechanisms are dropped into.",
)
@plugin_option
def command(mechanisms: tuple[str, ...] | None, layout: str) -> None:
    """Show each mechanism's parameters on the rungs of the isolation ladder.

    bare: mixing alone. bias: and the same relative position bias for all. local: and the same depth-wise
    branch for all. authors: as the authors configured it. Measure a rung with 'attnbench run --set rung=bias'
    and show it with 'attnbench table ablation --rung bias'.
    """
    chosen = mechanisms or registry.names()
    where = get_layout(layout)
    from attnbench.errors import AttnbenchError
    from attnbench.harness.models.matching import cost

    rows = []
    notes: dict[str, int] = {}
    for name in chosen:
        cells = []
        for rung in RUNGS:
            try:
                cells.append(f"{cost(where, name, 'parameters', rung=rung):,}")
            except AttnbenchError as error:
                cells.append(f"— [{notes.setdefault(str(error), len(notes) + 1)}]")
        rows.append((name, *cells))
    click.echo(markdown.table(("mechanism", *RUNGS), rows))
    for note, number in notes.items():
        click.echo(f"\n[{number}] {note}")
