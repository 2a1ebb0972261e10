"""``attnbench versus``: mechanisms beside their official code, as installed packages and clones have it."""

from pathlib import Path

import click

from attnbench import markdown
from attnbench.commands import _types
from attnbench.commands._arguments import before_torch


@click.command()
@click.option("--mechanisms", type=_types.MECHANISMS, metavar="A,B", help="By default all with one here.")
@click.option(
    "--official",
    type=_types.Existing("folder"),
    metavar="DIR",
    help="Folder of clones of the authors' repositories; what lacks one is named, and how to get it.",
)
@click.option("--pairs", type=_types.Whole(5, 10000), default=15, show_default=True, help="Turns of both.")
@click.option("--batch", type=_types.BATCH, default=4, show_default=True, help="Images.")
@click.option("--threads", type=_types.THREADS, default=1, show_default=True, help="Threads on a CPU.")
@click.option(
    "--device", type=_types.Device(auto=False), default="cpu", show_default=True, help="cpu or cuda."
)
def command(
    mechanisms: tuple[str, ...] | None,
    official: Path | None,
    pairs: int,
    batch: int,
    threads: int,
    device: str,
) -> None:
    """Official / ours in time: attention alone, two blocks of each stage of the Swin-T layout at 224 px.

    Prints, for inference and training in float32 and under autocast to bfloat16, the median over pairs of
    short turns in one process with its 95 % interval, and the slowest stage. Above 1 ours is faster. The
    references are those of timm, torchvision and natten and, with --official, the authors' own code in
    clones of their repositories; the two of a pair have the same weights, and are compared before they are
    timed.
    """
    before_torch()
    import torch

    from attnbench.errors import AttnbenchError
    from attnbench.harness import environment
    from attnbench.harness.versus.official import cloned
    from attnbench.harness.versus.race import CASES, Ratios, race
    from attnbench.harness.versus.references import INSTALLED

    references = INSTALLED | (cloned(official) if official else {})
    if mechanisms is not None:
        references = {title: one for title, one in references.items() if one.mechanism in mechanisms}
    if not references:
        raise AttnbenchError(
            f"no official code of {', '.join(mechanisms or ())} to compare with in installed packages; "
            "--official DIR takes clones of the authors' repositories (docs/speed.md)"
        )
    environment.pin_allocator()  # else page faults, which fall on either side as they like, are a third of it
    torch.set_num_threads(threads)
    heading = [text for mode, precision in CASES for text in (f"{mode} {precision}", "slowest")]
    click.echo(markdown.head(("official / ours", "mechanism", *heading), left=range(2 + len(heading))))
    failed, measured = False, False
    for title, reference in references.items():
        cells = [title, reference.mechanism]
        for mode, precision in CASES:
            try:
                found = race(reference, mode, precision, device=device, batch=batch, pairs=pairs)
            except AttnbenchError as error:  # the others go on
                found, failed = Ratios(reason=str(error)), True
            measured |= not found.reason
            cells += ["—" if found.reason and str(found) in cells else str(found), found.slowest_stage()]
        click.echo(markdown.row(cells))
    where = f"{threads} thread{'s' * (threads > 1)} on a CPU" if device == "cpu" else device
    click.echo(f"\nMedian of {pairs} pairs, batch {batch}, {where}, torch {torch.__version__}.")
    if failed or not measured:
        raise SystemExit(1)
