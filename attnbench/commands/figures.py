"""``attnbench figures``: records as figures for a paper."""

from pathlib import Path

import click

from attnbench.commands import _types
from attnbench.commands._arguments import DEFAULT_OUT, plugin_option, records_option, shown_options, warn
from attnbench.errors import AttnbenchError


@click.command()
@click.argument("folder", type=_types.Folder(), default="figures", metavar="[FOLDER]")
@records_option
@click.option(
    "--format",
    "kinds",
    type=_types.Words(),
    default="pdf",
    show_default=True,
    metavar="A,B",
    help="pdf, svg, png ...",
)
@shown_options
@plugin_option
def command(
    folder: Path,
    records: Path | None,
    kinds: tuple[str, ...],
    layout: str | None,
    resolution: int | None,
    device: str | None,
) -> None:
    """Draw what was measured into FOLDER (figures): speed, accuracy and its price, Figure 1, growth.

    Sized for a two-column paper, readable by colour-blind readers and without a caption. The same records
    give the same bytes. Needs attnbench[report].
    """
    from attnbench.figures.files import check_kind, save_figure

    for kind in kinds:
        check_kind(kind, "--format")
    from attnbench import certificates, store, tables
    from attnbench.figures.gallery import gallery
    from attnbench.tables.points import fullest_layout

    source = records or Path(f"{DEFAULT_OUT}/records")
    certificates.look_beside(source)
    found = store.read(source, warn)
    table = tables.ablation(
        found, layout=layout or fullest_layout(found), resolution=resolution, device=device
    )
    drawn = gallery(table, found)
    if not drawn:
        raise AttnbenchError("these records hold nothing to draw: no speed, no accuracy, no growth")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AttnbenchError(f"cannot make {folder}: {error.strerror}; give another FOLDER") from error
    for name, figure in drawn.items():
        for kind in kinds:
            save_figure(figure, folder / f"{name}.{kind.lower()}", "FOLDER")
            click.echo(folder / f"{name}.{kind.lower()}")
