"""``attnbench list``: what is registered."""

import json
from pathlib import Path

import click

from attnbench import registry
from attnbench.commands._arguments import plugin_option
from attnbench.errors import AttnbenchError, UnknownNameError
from attnbench.registry import MechanismSpec


@click.command("list")
@click.option("--format", "form", default="text", help="text or json")
@click.option(
    "--long", "in_full", is_flag=True, help="The catalogue: settings, cost, a picture of the pattern."
)
@plugin_option
def command(form: str, in_full: bool) -> None:
    """List the mechanisms, and the files that fail to import."""
    if form not in ("text", "json"):
        raise UnknownNameError("format", form, ("text", "json"))
    specs = [registry.get(name) for name in registry.names()]
    failed = registry.failures()
    if in_full:
        _list_in_full(specs, failed, form)
        return
    if form == "json":
        rows = [{"name": s.name, **vars(s.facts), "origin": s.origin, "status": "ok"} for s in specs]
        for origin, error in failed.items():
            rows.append({"name": Path(origin).stem, "origin": origin, "status": "failed", "error": error})

        click.echo(json.dumps(rows, indent=2))
        return
    rows_of_text = [("name", "title", "year", "paper", "pattern", "implementations")]
    for name, facts in ((spec.name, spec.facts) for spec in specs):
        year, impls = str(facts.year or "—"), " ".join(facts.impls)
        rows_of_text.append((name, facts.title, year, facts.paper or "—", facts.pattern or "—", impls))
    widths = [max(map(len, column)) for column in zip(*rows_of_text, strict=True)]
    for row in rows_of_text:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    click.echo("Any mechanism also has: compiled (torch.compile of eager, as one graph).")
    for origin, error in failed.items():
        click.echo(f"failed: {origin}: {error}")


def _list_in_full(specs: list[MechanismSpec], failed: dict[str, str], form: str) -> None:
    """The part of ``list`` that needs torch; a file that proves broken only now joins those that failed."""
    from attnbench.harness import catalogue

    entries = []
    for spec in specs:
        try:
            entries.append(catalogue.entry(spec))
        except Exception as error:  # anything may be wrong with a file from elsewhere
            reason = str(error) if isinstance(error, AttnbenchError) else f"{type(error).__name__}: {error}"
            failed = {**failed, spec.origin: reason}
    if form == "json":
        rows = [{"name": item.spec.name, **vars(item.spec.facts), **item.to_json()} for item in entries]
        rows += [
            {"name": Path(origin).stem, "origin": origin, "error": why} for origin, why in failed.items()
        ]
        click.echo(json.dumps(rows, indent=2))
        return
    click.echo(catalogue.render_text(entries), nl=False)
    for origin, why in failed.items():
        click.echo(f"failed: {origin}: {why}")
