"""The command line: ``attnbench list``, ``run``, ``check``, ``table``.

torch takes seconds to import, so it is imported inside the commands that compute, after their arguments
have been checked. Mistakes of the user end with one line and status 2.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from attnbench import __version__, registry
from attnbench.errors import AttnbenchError, UnknownNameError
from attnbench.registry import MechanismSpec

Command = TypeVar("Command", bound=Callable[..., Any])
METRICS = ("params", "macs", "memory", "throughput", "accuracy")
DEFAULT_OUT = "attnbench-results"
_BEFORE_TORCH = {
    "KINETO_LOG_LEVEL": "99",  # torch's profiler chats on stderr otherwise
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait are starved by any other process
}


def plugin_option(command: Command) -> Command:
    """``--plugin FILE``, repeatable, on a command."""

    def load(context: click.Context, parameter: click.Parameter, paths: tuple[str, ...]) -> tuple[str, ...]:
        for path in paths:
            registry.add_plugin(path)
        return paths

    return click.option(
        "--plugin",
        multiple=True,
        metavar="FILE",
        callback=load,
        expose_value=False,
        is_eager=True,
        help="Python file that registers mechanisms; may be repeated.",
    )(command)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="attnbench")
def cli() -> None:
    """Benchmark attention mechanisms of vision transformers.

    'attnbench run' with no argument measures every mechanism on this machine and prints the table.
    """


@cli.command("list")
@click.option("--format", "form", default="text", help="text or json")
@click.option(
    "--long", "in_full", is_flag=True, help="The catalogue: settings, cost, a picture of the pattern."
)
@plugin_option
def list_(form: str, in_full: bool) -> None:
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
    for origin, error in failed.items():
        click.echo(f"failed: {origin}: {error}")


def _list_in_full(specs: list[MechanismSpec], failed: dict[str, str], form: str) -> None:
    """The part of ``list`` that needs torch; a file that proves broken only now joins those that failed."""
    from attnbench import catalogue

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


@cli.command()
@click.option("--output", default="", metavar="FILE", help="Write there instead of to the terminal.")
@click.option("--check", "compare", is_flag=True, help="Write nothing; status 1 if FILE is not up to date.")
@plugin_option
def catalogue(output: str, compare: bool) -> None:
    """The catalogue of mechanisms as Markdown, as in docs/mechanisms.md."""
    if compare and not output:
        raise AttnbenchError("--check needs --output FILE, the file to compare with")
    from attnbench import catalogue as pages

    text = pages.render_markdown([pages.entry(registry.get(name)) for name in registry.names()])
    if compare:
        path = Path(output)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            click.echo(f"{output} is stale; run 'attnbench catalogue --output {output}'", err=True)
            sys.exit(1)
        click.echo(f"{output} is up to date")
    elif output:
        _write(Path(output), text)
    else:
        click.echo(text, nl=False)


@cli.command()
@click.option("--mechanisms", default="", metavar="A,B", help="Names, comma-separated.  [default: all]")
@click.option("--metrics", default=",".join(METRICS), show_default=True, metavar="A,B", help="Of these.")
@click.option("--layout", default="swin_t", show_default=True, help="Layout the mechanisms are dropped into.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N or auto.")
@click.option("--precision", default="fp32,amp", show_default=True, metavar="A,B", help="amp: bfloat16.")
@click.option("--modes", default="infer,train", show_default=True, metavar="A,B", help="infer, train.")
@click.option("--batch-size", default="", metavar="N", help="[default: 1 on CPU, 64 on CUDA]")
@click.option("--resolution", default="", metavar="N", help="Pixels a side.  [default: the layout's]")
@click.option("--impl", default="auto", show_default=True, help="Implementation of the mechanisms.")
@click.option("--set", "settings", multiple=True, metavar="OPTION=VALUE", help="Option of the mechanisms.")
@click.option("--preset", default="quick", show_default=True, help="quick or full: repeats and epochs.")
@click.option("--seed", default="0", show_default=True, metavar="N", help="Of weights, inputs and training.")
@click.option("--force", is_flag=True, help="Measure again what has a record.")
@click.option("--out", default=DEFAULT_OUT, show_default=True, metavar="DIR", help="Where records are kept.")
@plugin_option
def run(
    mechanisms: str,
    metrics: str,
    layout: str,
    device: str,
    precision: str,
    modes: str,
    batch_size: str,
    resolution: str,
    impl: str,
    settings: tuple[str, ...],
    preset: str,
    seed: str,
    force: bool,
    out: str,
) -> None:
    """Measure what has no record yet, then print the table.

    Accuracy is always measured by training the small layout swin_pico on images that need no download.
    """
    from attnbench.layouts import get_layout

    chosen = {
        "mechanisms": _names("mechanism", mechanisms, registry.names()) or tuple(registry.names()),
        "metrics": _names("metric", metrics, METRICS),
        "precisions": _names("precision", precision, ("fp32", "amp")),
        "modes": _names("mode", modes, ("infer", "train")),
        "layout": get_layout(layout).name,
        "resolution": _positive("resolution", resolution, get_layout(layout).img_size),
        "seed": _positive("seed", seed, 0, least=0),
        "impl": impl,
        "options": dict(_option(setting) for setting in settings),
        "force": force,
        "out": Path(out),
    }
    _names("preset", preset, ("quick", "full"))
    every = {impl for name in registry.names() for impl in registry.get(name).facts.impls}
    _names("implementation", impl, ["auto", *sorted(every)])
    batch = _positive("batch-size", batch_size, 0)
    _run(chosen, bool(mechanisms), device, batch, preset)


def _run(chosen: dict[str, Any], named: bool, device: str, batch: int, preset: str) -> None:
    """The part of ``run`` that needs torch; ``named``: the user chose the mechanisms."""
    for variable, value in _BEFORE_TORCH.items():
        os.environ.setdefault(variable, value)
    from attnbench.harness import environment, plan, runner
    from attnbench.progress import make_progress

    where = environment.resolve_device(device)
    batch = batch or (64 if where.type == "cuda" else 1)
    chosen["mechanisms"] = tuple(
        plan.usable(chosen["mechanisms"], chosen["impl"], chosen["options"], skip=not named, say=_warn)
    )
    request = plan.Request(**chosen, device=where, batch_size=batch, preset=plan.PRESETS[preset])
    with make_progress() as progress:
        summary = runner.run(request, progress)
    click.echo(_ablation(chosen["out"] / "records", "md", chosen["layout"], chosen["resolution"], str(where)))
    before = f", {summary.known} were there already" if summary.known else ""
    click.echo(f"{summary.measured} cells measured{before}; records: {summary.path}")
    for failure in summary.failed:
        click.echo(f"failed: {failure}", err=True)


@cli.command()
@click.argument("name")
@click.option("--records", default=f"{DEFAULT_OUT}/records", show_default=True, metavar="DIR")
@click.option("--format", "form", default="md", show_default=True, help="md, csv, latex or html.")
@click.option("--output", default="", metavar="FILE", help="Write there instead of to the terminal.")
@click.option("--layout", default="", help="Layout to show.  [default: the newest record's]")
@click.option("--resolution", default="", metavar="N", help="Pixels a side.  [default: the newest record's]")
@click.option("--device", default="", help="Device to show.  [default: the newest record's]")
@plugin_option
def table(name: str, records: str, form: str, output: str, layout: str, resolution: str, device: str) -> None:
    """Render records as the table NAME; there is 'ablation' (after BiFormer's Table 5)."""
    if name != "ablation":
        raise UnknownNameError("table", name, ("ablation",))
    size = _positive("resolution", resolution, 0)
    rendered = _ablation(Path(records), form, layout or None, size or None, device or None)
    if not output:
        click.echo(rendered, nl=False)
        return
    _write(Path(output), rendered)


@cli.command()
@click.argument("mechanisms", nargs=-1, metavar="[NAME|FILE.py]...")
@click.option("--all", "every", is_flag=True, help="Check every mechanism.")
@click.option("--only", default="", metavar="A,B", help="Names of checks; no certificate is written.")
@click.option("--out", default=DEFAULT_OUT, show_default=True, metavar="DIR", help="Certificates go there.")
@click.option("--golden", default="", metavar="DIR", help="Compare with a golden folder instead.")
@plugin_option
def check(mechanisms: tuple[str, ...], every: bool, only: str, out: str, golden: str) -> None:
    """Check that mechanisms hold the conformance suite, and write a certificate for each.

    Prints a line per check; exits with status 1 if one fails. With --golden: compares the mechanisms
    (by default all) with the golden tensors of a folder, prints a line per case and "N of M equal", and
    exits with status 1 unless all are.
    """
    from attnbench import _check_command

    if golden:
        passed = _check_command.golden(Path(golden), mechanisms, click.echo)
    else:
        checks = [name.strip() for name in only.split(",") if name.strip()]
        passed = _check_command.conformance(mechanisms, every, checks, Path(out), click.echo)
    if not passed:
        sys.exit(1)


def _ablation(
    records: Path, form: str, layout: str | None, resolution: int | None, device: str | None
) -> str:
    from attnbench import render, store, tables

    if form not in render.FORMATS:
        raise UnknownNameError("format", form, render.FORMATS)
    found = store.read(records, _warn)
    return render.render(tables.ablation(found, layout=layout, resolution=resolution, device=device), form)


def _names(kind: str, text: str, known: list[str] | tuple[str, ...]) -> tuple[str, ...]:
    """Comma-separated names in the order given, each once; UnknownNameError where one is not known."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in known:
            if kind == "mechanism":
                registry.get(name)  # says why, if its file failed to import
            raise UnknownNameError(kind, name, known)
    return names


def _option(text: str) -> tuple[str, Any]:
    """``topk=[1,4,16,null]`` as a name and a value; a value that is not JSON is a string."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise AttnbenchError(f"--set must be OPTION=VALUE, got {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise AttnbenchError(f"cannot write {path}: {error.strerror}; give another --output") from error


def _positive(option: str, text: str, default: int, least: int = 1) -> int:
    """A whole number of at least ``least``; ``default`` where the option was not given."""
    if not text:
        return default
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise AttnbenchError(f"--{option} must be a whole number of at least {least}, got {text!r}")
    return value


def main(arguments: list[str] | None = None) -> NoReturn:
    """Entry point: run the command, and turn a user's mistake into one line and status 2."""
    try:
        code = cli.main(args=arguments, prog_name="attnbench", standalone_mode=False)
    except AttnbenchError as error:
        code = _complain(str(error))
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        code = 0
    except click.ClickException as error:
        code = _complain(error.format_message())
    except (click.Abort, KeyboardInterrupt):
        click.echo("attnbench: interrupted; finished cells are kept, the same command goes on", err=True)
        code = 130
    sys.exit(code if isinstance(code, int) else 0)


def _warn(line: str) -> None:
    click.echo(f"warning: {line}", err=True)


def _complain(message: str) -> int:
    click.echo(f"attnbench: error: {' '.join(message.split())}", err=True)
    return 2


if __name__ == "__main__":
    main()
