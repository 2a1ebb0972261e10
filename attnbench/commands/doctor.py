"""``attnbench doctor``: what works here, and what to do about the rest."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from attnbench.commands import _types
from attnbench.commands._arguments import DEFAULT_OUT, before_torch

_SIGNS = {"ok": "ok", "absent": "--", "problem": "!!"}


@click.command()
@click.option(
    "--device", type=_types.Device(), default="auto", show_default=True, help="cpu, cuda, cuda:N or auto."
)
@click.option(
    "--format", "form", type=_types.OneOf("format", "text", "json"), default="text", show_default=True
)
@click.option(
    "--out",
    type=_types.Folder(),
    default=DEFAULT_OUT,
    show_default=True,
    metavar="DIR",
    help="Where records would go.",
)
def command(device: str, form: str, out: Path) -> None:
    """Say what is installed and what each back end can do here, by running it, and what to do about the rest.

    Exits with status 1 if 'attnbench run' cannot work; that something optional is absent is no failure.
    """
    before_torch()
    from attnbench.harness.workers import processes

    processes.start_server()
    from attnbench.harness import doctor, environment

    findings = []
    for finding in doctor.examine(environment.resolve_device(device), out):
        findings.append(finding)
        if form == "text":
            click.echo(f"{_SIGNS[finding.state]}  {finding.name:<16} {finding.says}")
            if finding.advice:
                click.echo(f"{'':<21}{finding.advice}")
    unfit = [finding for finding in findings if finding.required and finding.state != "ok"]
    if form == "json":
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=1))
    elif unfit:
        click.echo(f"'attnbench run' cannot work here: {', '.join(finding.name for finding in unfit)}")
    else:
        click.echo("'attnbench run' works here")
    if unfit:
        sys.exit(1)
