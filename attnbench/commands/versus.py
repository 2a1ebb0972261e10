"""``attnbench versus``: mechanisms beside their official code, as installed packages have it."""

import click

from attnbench import markdown
from attnbench.commands import _types
from attnbench.commands._arguments import before_torch


@click.command()
@click.option("--mechanisms", type=_types.MECHANISMS, metavar="A,B", help="By default all with one here.")
@click.option("--pairs", type=_types.Whole(5, 10000), default=15, show_default=True, help="Turns of both.")
@click.option("--batch", type=_types.BATCH, default=4, show_default=True, help="Images.")
@click.option("--threads", type=_types.THREADS, default=1, show_default=True, help="Threads on a CPU.")
@click.option(
    "--device", type=_types.Device(auto=False), default="cpu", show_default=True, help="cpu or cuda."
)
def command(mechanisms: tuple[str, ...] | None, pairs: int, batch: int, threads: int, device: str) -> None:
    """Official / ours in time: attention alone, two blocks of each stage of the Swin-T layout at 224 px.

    Prints, for inference and training in float32 and under autocast to bfloat16, the median over pairs of
    short turns in one process with its 95 % interval, and the slowest stage. Above 1 ours is faster. The
    references are those of timm, torchvision and natten; the two of a pair have the same weights, and are
    compared before they are timed.
    """
    before_torch()
    import torch

    from attnbench.harness import environment
    from attnbench.harness.versus.race import CASES, race
    from attnbench.harness.versus.references import REFERENCES

    environment.pin_allocator()  # else page faults, which fall on either side as they like, are a third of it
    torch.set_num_threads(threads)
    heading = [text for mode, precision in CASES for text in (f"{mode} {precision}", "slowest")]
    click.echo(markdown.head(("official / ours", "mechanism", *heading), left=range(2 + len(heading))))
    for title, (name, build) in REFERENCES.items():
        if mechanisms is not None and name not in mechanisms:
            continue
        cells = [title, name]
        for mode, precision in CASES:
            found = race(build, mode, precision, device=device, batch=batch, pairs=pairs)
            cells += [str(found), found.slowest_stage()]
        click.echo(markdown.row(cells))
    where = f"{threads} thread{'s' * (threads > 1)} on a CPU" if device == "cpu" else device
    click.echo(f"\nMedian of {pairs} pairs, batch {batch}, {where}, torch {torch.__version__}.")
