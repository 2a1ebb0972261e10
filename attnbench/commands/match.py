"""``attnbench match``: options under which one mechanism costs as much as another."""

import json
import shlex
import sys

import click

from attnbench import registry
from attnbench.commands._arguments import plugin_option
from attnbench.errors import AttnbenchError, UnknownNameError
from attnbench.layouts import get_layout


@click.command()
@click.argument("mechanism")
@click.argument("reference")
@click.option("--by", default="macs", show_default=True, help="macs or parameters.")
@click.option("--knob", default="", help="Option to turn.  [default: the first that will do]")
@click.option("--layout", default="swin_t", show_default=True, help="Layout of both.")
@click.option("--tolerance", default="0.01", show_default=True, metavar="X", help="Relative.")
@plugin_option
def command(mechanism: str, reference: str, by: str, knob: str, layout: str, tolerance: str) -> None:
    """Find options of MECHANISM under which the model costs as much as with REFERENCE.

    Exits with status 1, and the nearest there is, if no value comes within the tolerance.
    """
    if by not in ("macs", "parameters"):
        raise UnknownNameError("cost", by, ("macs", "parameters"))
    try:
        allowed = float(tolerance)
    except ValueError:
        allowed = -1.0
    if not 0 <= allowed < 1:
        raise AttnbenchError(f"--tolerance must be a number from 0 to 1, got {tolerance!r}")
    spec, other, where = registry.get(mechanism), registry.get(reference), get_layout(layout)
    from attnbench.harness.models import matching

    target = matching.cost(where, other.name, by)
    before = matching.cost(where, spec.name, by)
    found = matching.match(spec, where, target, by, allowed, knob)
    texts = [f"{k}={json.dumps(v, separators=(',', ':'))}" for k, v in found.options.items()]
    settings = " ".join(f"--set {shlex.quote(text)}" for text in texts)
    click.echo(f"{reference}: {target:,} {by}; {mechanism} as it is: {before:,} ({before / target - 1:+.2%})")
    click.echo(f"{mechanism} with {' '.join(texts)}: {found.reached:,} ({found.gap:+.2%})")
    if abs(found.gap) > allowed:
        click.echo(f"none comes within {allowed:.2%}; this is the nearest", err=True)
        sys.exit(1)
    click.echo(f"measure it: attnbench run --layout {layout} --mechanisms {mechanism} {settings}")
