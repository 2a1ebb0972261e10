"""``attnbench match``: options under which one mechanism costs as much as another."""

import json
import shlex
import sys

import click

from attnbench import registry
from attnbench.commands import _types
from attnbench.commands._arguments import plugin_option
from attnbench.layouts import get_layout


@click.command()
@click.argument("mechanism", type=_types.MECHANISM)
@click.argument("reference", type=_types.MECHANISM)
@click.option("--by", type=_types.OneOf("cost", "macs", "parameters"), default="macs", show_default=True)
@click.option("--knob", type=_types.Word(), help="Option to turn.  [default: the first that will do]")
@click.option("--layout", type=_types.LAYOUT, default="swin_t", show_default=True, help="Layout of both.")
@click.option(
    "--tolerance",
    type=_types.Number(0, 1, below=True),
    default=0.01,
    show_default=True,
    metavar="X",
    help="Relative.",
)
@plugin_option
def command(mechanism: str, reference: str, by: str, knob: str | None, layout: str, tolerance: float) -> None:
    """Find options of MECHANISM under which the model costs as much as with REFERENCE.

    Exits with status 1, and the nearest there is, if no value comes within the tolerance.
    """
    spec, other, where = registry.get(mechanism), registry.get(reference), get_layout(layout)
    from attnbench.harness.models import matching

    target = matching.cost(where, other.name, by)
    before = matching.cost(where, spec.name, by)
    found = matching.match(spec, where, target, by, tolerance, knob or "")
    texts = [f"{k}={json.dumps(v, separators=(',', ':'))}" for k, v in found.options.items()]
    settings = " ".join(f"--set {shlex.quote(text)}" for text in texts)
    click.echo(f"{reference}: {target:,} {by}; {mechanism} as it is: {before:,} ({before / target - 1:+.2%})")
    click.echo(f"{mechanism} with {' '.join(texts)}: {found.reached:,} ({found.gap:+.2%})")
    if abs(found.gap) > tolerance:
        click.echo(f"none comes within {tolerance:.2%}; this is the nearest", err=True)
        sys.exit(1)
    click.echo(f"measure it: attnbench run --layout {layout} --mechanisms {mechanism} {settings}")
