"""``attnbench probe``: what a mechanism can do, on generated tasks whose answers have a known place."""

from pathlib import Path
from typing import Any

import click

from attnbench import datasets, registry
from attnbench.commands import _arguments
from attnbench.commands._arguments import DEFAULT_OUT, before_torch, option, plugin_option, positive, warn
from attnbench.errors import AttnbenchError, UnknownNameError

FORMATS = ("md", "csv", "json")


@click.command()
@click.argument("probes", nargs=-1, metavar="[NAME ...|all]")
@click.option("--mechanisms", default="", metavar="A,B", help="Comma-separated.  [default: all]")
@click.option("--seeds", default="", metavar="N", help="Seeds 0 to N − 1 of each.  [default: 1]")
@click.option("--layout", default="", metavar="NAME", help="Layout of one stage.  [default: the probe's]")
@click.option("--steps", default="", metavar="N", help="Training steps.  [default: the probe's]")
@click.option("--rates", default="", metavar="A,B", help="To choose from.  [default: 0.001,0.003]")
@click.option("--set", "settings", multiple=True, metavar="OPTION=VALUE", help="Option of the mechanisms.")
@click.option("--impl", default="auto", show_default=True, help="Implementation of the mechanisms.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N or auto.")
@click.option("--threads", default="", metavar="N", help="Of torch on a CPU.  [default: torch's choice]")
@click.option("--out", default=DEFAULT_OUT, show_default=True, metavar="DIR", help="Where records are kept.")
@click.option("--records", default="", metavar="DIR", help="Train nothing: print what these records hold.")
@click.option("--show", is_flag=False, flag_value="-", default="", metavar="[FILE]", help="Draw examples.")
@click.option("--format", "form", default="md", show_default=True, help="md, csv or json.")
@click.option("--force", is_flag=True, help="Train again what has a record.")
@plugin_option
def command(
    probes: tuple[str, ...], mechanisms: str, show: str, records: str, form: str, **given: Any
) -> None:
    """Train mechanisms on probes, and say how much they answer and why no more.

    A probe is a generated picture of cells, in which some cells are asked something that another cell holds.
    The score is split by whether one attention reads that cell, only several blocks after each other do, or
    none: a number that explains itself. 'attnbench probe --show' prints an example of each; docs/probes.md
    has the reasons and the figures.
    """
    chosen = _probes(probes)
    if form not in FORMATS:
        raise UnknownNameError("format", form, FORMATS)
    if show:
        return _show(chosen, show)
    wanted = _arguments.names("mechanism", mechanisms, registry.names())
    if not records:
        records = _train(chosen, wanted or tuple(registry.names()), given)
    _print(chosen, wanted, Path(records), form)


def _probes(given: tuple[str, ...]) -> tuple[str, ...]:
    """The probes asked for, all if none was named."""
    known = datasets.names("probe")
    for name in given:
        if name != "all" and name not in known:
            raise UnknownNameError("probe", name, ["all", *known])
    if given and "all" not in given:
        return tuple(dict.fromkeys(given))
    return tuple(known)


def _show(probes: tuple[str, ...], target: str) -> None:
    before_torch()
    from attnbench.figures import check_plottable, save_figure
    from attnbench.harness.probes import show

    if target == "-":
        click.echo("\n".join(map(show.in_words, probes)))
        return
    check_plottable(Path(target))
    save_figure(show.figure(list(probes)), Path(target))


def _train(probes: tuple[str, ...], mechanisms: tuple[str, ...], given: dict[str, Any]) -> str:
    """Train what has no record; the folder of the records."""
    count = positive("seeds", given["seeds"], 1)
    steps = positive("steps", given["steps"], 0)
    threads = positive("threads", given["threads"], 0)
    rates = _rates(given["rates"])
    before_torch()
    import torch

    from attnbench.harness import environment
    from attnbench.harness.probes import campaign
    from attnbench.progress import make_progress

    if threads:
        torch.set_num_threads(threads)
    request = campaign.Request(
        probes=probes,
        mechanisms=mechanisms,
        seeds=tuple(range(count)),
        device=environment.resolve_device(given["device"]),
        out=Path(given["out"]),
        layout=given["layout"],
        steps=steps,
        rates=rates,
        options=dict(option(setting) for setting in given["settings"]),
        impl=given["impl"],
        force=given["force"],
    )
    with make_progress() as progress:
        summary = campaign.run(request, progress)
    for failure in summary.failed:
        warn(failure)
    if summary.trained and len(summary.failed) == summary.trained and not summary.known:
        raise AttnbenchError(f"nothing could be trained: {summary.failed[0]}")
    return str(request.out / "records")


def _rates(text: str) -> tuple[float, ...]:
    try:
        found = tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        found = (0.0,)
    if any(not 0 < rate < 1 for rate in found):
        raise AttnbenchError(f"--rates must be numbers between 0 and 1, separated by commas, got {text!r}")
    return found


def _print(probes: tuple[str, ...], mechanisms: tuple[str, ...], records: Path, form: str) -> None:
    before_torch()  # a probe's question stands in its class
    from attnbench import store
    from attnbench.tables import probe_profile, probe_text

    found = [m for m in store.read(records, warn) if not mechanisms or m.cell.mechanism in mechanisms]
    profiles = probe_profile.profiles(found, probes)
    if not profiles:
        raise AttnbenchError(f"no record of {', '.join(probes)} in {records}; leave out --records to train")
    click.echo(probe_text.render(profiles, form), nl=False)
