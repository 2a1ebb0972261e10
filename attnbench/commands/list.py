"""``attnbench list``: what is registered."""

import json
from pathlib import Path
from typing import Any

import click

from attnbench import registry
from attnbench.commands import _types
from attnbench.commands._arguments import plugin_option
from attnbench.errors import AttnbenchError
from attnbench.registry import MechanismSpec


@click.command("list")
@click.option(
    "--kind",
    type=_types.OneOf("kind", "mechanisms", "datasets", "probes", "metrics", "layouts"),
    default="mechanisms",
    show_default=True,
)
@click.option(
    "--format", "form", type=_types.OneOf("format", "text", "json"), default="text", show_default=True
)
@click.option(
    "--long", "in_full", is_flag=True, help="The catalogue: settings, cost, a picture of the pattern."
)
@plugin_option
def command(kind: str, form: str, in_full: bool) -> None:
    """List the mechanisms, and the files that fail to import; or what else there is."""
    if kind != "mechanisms":
        _print(_OTHERS[kind](), form)
        return
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
    _print([_of_mechanism(spec) for spec in specs], form)
    click.echo("Any mechanism also has: compiled (torch.compile of eager, as one graph).")
    for origin, error in failed.items():
        click.echo(f"failed: {origin}: {error}")


def _of_mechanism(spec: MechanismSpec) -> dict[str, Any]:
    facts = spec.facts
    row = {"name": spec.name, "title": facts.title, "year": facts.year, "paper": facts.paper}
    return row | {"pattern": facts.pattern, "implementations": " ".join(facts.impls)}


def _metrics() -> list[dict[str, Any]]:
    from attnbench import metrics

    found = map(metrics.get, metrics.names())
    return [
        {
            "name": metric.name,
            "title": metric.title,
            "values": " ".join(value.name for value in metric.values),
            "by_default": "yes" if metric.default else "no",
        }
        for metric in found
    ]


def _layouts() -> list[dict[str, Any]]:
    from attnbench import layouts

    found = map(layouts.get_layout, layouts.names())
    return [
        {
            "name": layout.name,
            "title": layout.title,
            "pixels": layout.img_size,
            "channels": layout.embed_dim,
            "depths": " ".join(map(str, layout.depths)),
        }
        for layout in found
    ]


def _datasets(task: str = "") -> list[dict[str, Any]]:
    from attnbench import datasets

    rows: list[dict[str, Any]] = []
    for spec in map(datasets.get, datasets.names(task)):
        facts = spec.facts
        row = {"name": spec.name, "title": facts.title, "task": facts.task, "classes": facts.num_classes}
        row |= {"sizes": facts.sizes, "obtained": facts.obtained, "licence": facts.licence}
        rows.append(row | {"source": facts.source, "digest": spec.digest()})
    for origin, error in datasets.failures().items():
        failed = {"name": Path(origin).stem, "title": f"failed: {origin}: {error}"}
        rows.append(dict.fromkeys(rows[0], "") | failed)
    return rows


def _probes() -> list[dict[str, Any]]:
    return _datasets("probe")


_OTHERS = {"datasets": _datasets, "probes": _probes, "metrics": _metrics, "layouts": _layouts}


def _print(rows: list[dict[str, Any]], form: str) -> None:
    """Rows with the same keys, as JSON or as a table whose headings are the keys."""
    if form == "json":
        click.echo(json.dumps(rows, indent=2))
        return
    keys = [key.replace("_", " ") for key in rows[0]]
    table = [keys, *([str(value or "—") for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


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
