"""``attnbench report FILE.py``: from a mechanism's file to a page with its row in the published table."""

import html
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from attnbench import registry, store
from attnbench.commands._arguments import before_torch, warn, write

if TYPE_CHECKING:
    import torch

    from attnbench.record import Measurement
    from attnbench.report.sections import Extra

PROBE = "retrieval_sparse"
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
    click.echo(f"1 of 4: does {', '.join(names)} hold the contract?")
    if not conformance.conformance(names, False, (), out, click.echo):
        warn("it does not: its row is marked uncertified, and its numbers may mean nothing")
    click.echo(f"2 of 4: counts, memory, speed beside the baseline and training, in {own.LAYOUT}")
    failed = _measure(names, out, where)
    click.echo(f"3 of 4: the probe {PROBE}")
    failed += _probe(names, out, where)
    for failure in failed:
        click.echo(f"failed: {failure}", err=True)
    click.echo("4 of 4: the page")
    write(output, _page(names, out, str(where), own.LAYOUT))
    click.echo(f"written: {output}; records: {out / 'records'}")


def _measure(names: list[str], out: Path, where: "torch.device") -> list[str]:
    """Measure what has no record; the cells that failed, with reasons."""
    from attnbench.harness.run import own
    from attnbench.progress import make_progress

    with make_progress() as progress:
        return own.measure(names, out, where, progress).failed


def _probe(names: list[str], out: Path, where: "torch.device") -> list[str]:
    """Train the mechanisms on the probe, under its own conditions; the failures, with reasons."""
    from attnbench.harness.probes import campaign
    from attnbench.progress import make_progress

    request = campaign.Request(
        probes=(PROBE,), mechanisms=tuple(names), seeds=(0,), device=where, out=out
    )  # fmt: skip
    with make_progress() as progress:
        return campaign.run(request, progress).failed


def _page(names: list[str], out: Path, device: str, layout: str) -> str:
    """The page of all shipped records and the new ones."""
    from attnbench import certificates
    from attnbench.layouts import get_layout
    from attnbench.report.page import page

    certificates.look_beside(out / "records")
    shipped = store.read(SHIPPED, warn) if SHIPPED.is_dir() else []
    own = store.read(out / "records", warn)
    records = [*shipped, *own]
    extras = [*_probe_part(records), *(tokens_part(name, layout) for name in names)]
    return page(records, layout=layout, resolution=get_layout(layout).img_size, device=device, extras=extras)


def _probe_part(records: "Sequence[Measurement]") -> "Iterator[Extra]":
    """The probe's table: the mechanisms whose records were made under the same conditions."""
    from markupsafe import Markup

    from attnbench.report.sections import Extra
    from attnbench.tables import probe_profile

    for profile in probe_profile.profiles(records, (PROBE,)):
        heads = ["Attention", "Right (%)", "Why"]
        rows = []
        for row in profile.rows.values():
            mean = row.mean("accuracy")
            right = f"{mean.value:.1f}" if mean else "—"
            rows.append([probe_profile.title(row.name), right, probe_profile.why(row, profile)])
        about = (
            f"{profile.title}: guessing gets {profile.chance:.1f} %, tokens that know nothing of each other "
            f"{profile.without}. One seed."
        )
        yield Extra("probe", "A probe", Markup(f"<p>{html.escape(about)}</p>{_table(heads, rows)}"))


def _table(heads: list[str], rows: list[list[str]]) -> str:
    head = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in heads)
    body = "".join(
        f'<tr><th scope="row">{html.escape(first)}</th>'
        + "".join(f"<td>{html.escape(text)}</td>" for text in rest)
        + "</tr>"
        for first, *rest in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def tokens_part(name: str, layout: str) -> "Extra":
    """What each token reads in the layout's third stage, with random weights."""
    before_torch()
    from markupsafe import Markup

    from attnbench.harness.visualize import explorer, view
    from attnbench.report.sections import Extra

    found = view.every_token(view.Asked(name, layout), probes=DIRECTIONS)
    return Extra(f"tokens-{name}", f"What a token of {name} reads", Markup(explorer.fragment(found)))
