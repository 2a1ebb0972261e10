"""``attnbench report FILE.py``: from a mechanism's file to a page with its row in the published table."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from attnbench import registry, store
from attnbench.commands._arguments import before_torch, end_of_run, warn, write

if TYPE_CHECKING:
    import torch

    from attnbench.record import Measurement
    from attnbench.report.sections import Extra

PROBE = "retrieval_sparse"
COLUMNS = (
    *("parameters", "macs", "peak_memory_infer_fp32_bytes", "peak_memory_train_fp32_bytes"),
    *("ratio_infer_fp32", "ratio_train_fp32", "published_top1", "published_miou"),
)
"""Of the table that is printed; the page has all."""
DIRECTIONS = 4
"""Of the value path, where a mechanism has no map of its own: a picture of all tokens in seconds."""
SHIPPED = Path(__file__).parent.parent / "results" / "records"
if not SHIPPED.parent.is_dir():  # a checkout without symbolic links, not installed
    SHIPPED = Path(__file__).parent.parent.parent / "results" / "records"


def report(file: Path, out: Path, output: Path, device: str) -> None:
    """Check, count, time and train the mechanisms of a file, and write the page.

    The page's table has the shipped records of all mechanisms beside the new ones; what was measured under
    other conditions, such as another machine's speed, does not share a column.

    Raises:
        AttnbenchError: the file cannot be used, or a folder or the page cannot be written.
    """
    names = registry.meant_by(str(file))
    store.check_writable(output.parent)
    before_torch()
    from attnbench.harness.workers import processes

    processes.start_server()
    from attnbench.harness import environment
    from attnbench.harness.conformance import command as conformance
    from attnbench.harness.run import own

    where = environment.resolve_device(device)
    click.echo("About two minutes for each mechanism, on two cores; what has a record is not measured again.")
    click.echo(f"1 of 4, half a minute: does {', '.join(names)} hold the contract?")
    if not conformance.conformance(names, False, (), out, click.echo):
        warn("it does not: its row is marked uncertified, and its numbers may mean nothing")
    click.echo(f"2 of 4, a minute: counts, memory, speed beside the baseline and training, in {own.LAYOUT}")
    failed, asked = _measure(names, out, where)
    click.echo(f"3 of 4, a quarter of a minute: training on the probe {PROBE}")
    untrained = _probe(names, out, where)
    click.echo("4 of 4, a few seconds: the page\n")
    text, rows = _page(names, out, str(where), own.LAYOUT)
    write(output, text)
    click.echo(f"{rows}\nrecords: {out / 'records'}\npage: {output}, with all other mechanisms and charts")
    for place in _places(names, text):
        click.echo(f"  {output.resolve().as_uri()}#{place}")
    end_of_run(failed + untrained, asked + len(names))


def _places(names: list[str], page: str) -> Iterator[str]:
    """Anchors of the page where the mechanisms are: sources of the row, what tokens read, the probe."""
    wanted = [f"{part}-{name}" for name in names for part in ("row", "tokens")]
    return (anchor for anchor in [*wanted, "probes"] if f'id="{anchor}"' in page)


def _measure(names: list[str], out: Path, where: "torch.device") -> tuple[list[str], int]:
    """Measure what has no record; the cells that failed, with reasons, and how many cells there are."""
    from attnbench.harness.run import own
    from attnbench.progress import make_progress

    with make_progress() as progress:
        summary = own.measure(names, out, where, progress)
    return summary.failed, summary.measured + summary.known


def _probe(names: list[str], out: Path, where: "torch.device") -> list[str]:
    """Train the mechanisms on the probe, under its own conditions; the failures, with reasons."""
    from attnbench.harness.probes import campaign
    from attnbench.progress import make_progress

    request = campaign.Request(
        probes=(PROBE,), mechanisms=tuple(names), seeds=(0,), device=where, out=out
    )  # fmt: skip
    with make_progress() as progress:
        return campaign.run(request, progress).failed


def _page(names: list[str], out: Path, device: str, layout: str) -> tuple[str, str]:
    """The page of all shipped records and the new ones, and its table's rows of the published mechanisms."""
    from attnbench import certificates, tables
    from attnbench.layouts import get_layout
    from attnbench.published import of_mechanisms
    from attnbench.report.page import page
    from attnbench.tables.grid import grid
    from attnbench.tables.narrow import narrow

    certificates.look_beside(out / "records")
    shipped = store.read(SHIPPED, warn) if SHIPPED.is_dir() else []
    own = store.read(out / "records", warn)
    records = [*shipped, *own]
    extras = [tokens_part(name, layout) for name in names]
    size = get_layout(layout).img_size
    text = page(records, layout=layout, resolution=size, device=device, extras=extras)
    beside = {*names, *of_mechanisms("top1")}
    few = [m for m in records if m.cell.mechanism in beside]
    table = tables.ablation(few, layout=layout, resolution=size, device=device)
    whole = grid(table)
    shown = replace(whole, heads=[head for head in whole.heads if head.name in COLUMNS])
    return text, "\n".join([narrow(shown, table), *_probed(names, own)])


def _probed(names: list[str], records: "Sequence[Measurement]") -> Iterator[str]:
    """A line for each mechanism: how it did on the probe, and why."""
    from attnbench.tables import probe_profile

    for profile in probe_profile.profiles(records, (PROBE,)):
        for name in profile.rows.keys() & names:
            row = profile.rows[name]
            mean = row.mean("accuracy")
            right = f"{mean.value:.1f} % (guessing {profile.chance:g}); " if mean else ""
            yield f"{profile.title}: {probe_profile.title(name)} {right}{probe_profile.why(row, profile)}"


def tokens_part(name: str, layout: str) -> "Extra":
    """What each token reads in the layout's third stage, with random weights."""
    before_torch()
    from markupsafe import Markup

    from attnbench.harness.visualize import explorer, view
    from attnbench.report.sections import Extra

    found = view.every_token(view.Asked(name, layout), probes=DIRECTIONS)
    return Extra(f"tokens-{name}", f"What a token of {name} reads", Markup(explorer.fragment(found)))
