"""``attnbench probe``: what a mechanism can do, on generated tasks whose answers have a known place."""

from pathlib import Path
from typing import Any

import click

from attnbench import datasets, registry
from attnbench.commands import _types
from attnbench.commands._arguments import (
    DEFAULT_OUT,
    before_torch,
    deliver,
    output_option,
    plugin_option,
    settings_option,
    warn,
)
from attnbench.errors import AttnbenchError


def _names() -> list[str]:
    return ["all", *datasets.names("probe")]


class _Rates(click.ParamType):
    """Learning rates separated by commas, as a tuple."""

    name = "rates"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The rates in the order given."""
        if isinstance(value, tuple):
            return value
        each = _types.Number(0, 1, above=True, below=True)
        return tuple(dict.fromkeys(each.convert(part, param, ctx) for part in value.split(",")))


@click.command()
@click.argument("probes", nargs=-1, type=_types.Name("probe", _names), metavar="[NAME ...|all]")
@click.option("--mechanisms", type=_types.MECHANISMS, metavar="A,B", help="Comma-separated.  [default: all]")
@click.option("--seeds", type=_types.Whole(1, 1000), default=1, show_default=True, help="Seeds 0 to N − 1.")
@click.option("--layout", type=_types.LAYOUT, help="Layout of one stage.  [default: the probe's]")
@click.option("--steps", type=_types.Whole(1, 10**7), help="Training steps.  [default: the probe's]")
@click.option("--rates", type=_Rates(), metavar="A,B", help="To choose from.  [default: 0.001,0.003]")
@settings_option
@click.option("--impl", type=_types.IMPL, default="auto", show_default=True, help="Of the mechanisms.")
@click.option("--device", type=_types.Device(), default="auto", show_default=True, help="cpu, cuda or auto.")
@click.option("--threads", type=_types.THREADS, help="Of torch on a CPU.  [default: torch's choice]")
@click.option("--out", type=_types.Folder(), default=DEFAULT_OUT, show_default=True, help="For records.")
@click.option("--records", type=_types.Existing(), help="Train nothing: print what these records hold.")
@click.option("--show", is_flag=False, flag_value="-", default="", metavar="[FILE]", help="Draw examples.")
@click.option(
    "--format", "form", type=_types.OneOf("format", "md", "csv", "json"), default="md", show_default=True
)
@output_option
@click.option("--force", is_flag=True, help="Train again what has a record.")
@plugin_option
def command(
    probes: tuple[str, ...],
    mechanisms: tuple[str, ...] | None,
    show: str,
    records: Path | None,
    form: str,
    output: Path | None,
    **given: Any,
) -> None:
    """Train mechanisms on probes, and say how much they answer and why no more.

    A probe is a generated picture of cells, in which some cells are asked something that another cell holds.
    The score is split by whether one attention reads that cell, only several blocks after each other do, or
    none: a number that explains itself. 'attnbench probe --show' prints an example of each; docs/probes.md
    has the reasons and the figures.
    """
    known = datasets.names("probe")
    chosen = tuple(known) if not probes or "all" in probes else tuple(dict.fromkeys(probes))
    if show in known:  # what follows --show may be meant as a file or as a probe
        chosen, show = tuple(dict.fromkeys((*probes, show))), "-"
    if show:
        return _show(chosen, show)
    if records is None:
        records = _train(chosen, mechanisms or tuple(registry.names()), given)
    deliver(_table(chosen, mechanisms, records, form), output)


def _show(probes: tuple[str, ...], target: str) -> None:
    before_torch()
    from attnbench.figures import check_plottable, save_figure
    from attnbench.harness.probes import show

    if target == "-":
        click.echo("\n".join(map(show.in_words, probes)))
        return
    check_plottable(Path(target))
    save_figure(show.figure(list(probes)), Path(target))


def _train(probes: tuple[str, ...], mechanisms: tuple[str, ...], given: dict[str, Any]) -> Path:
    """Train what has no record; the folder of the records."""
    before_torch()
    import torch

    from attnbench.harness import environment
    from attnbench.harness.probes import campaign
    from attnbench.progress import make_progress

    if given["threads"]:
        torch.set_num_threads(given["threads"])
    request = campaign.Request(
        probes=probes,
        mechanisms=mechanisms,
        seeds=tuple(range(given["seeds"])),
        device=environment.resolve_device(given["device"]),
        out=given["out"],
        layout=given["layout"] or "",
        steps=given["steps"] or 0,
        rates=given["rates"] or (),
        options=given["settings"],
        impl=given["impl"],
        force=given["force"],
    )
    with make_progress() as progress:
        summary = campaign.run(request, progress)
    for failure in summary.failed:
        warn(failure)
    if summary.trained and len(summary.failed) == summary.trained and not summary.known:
        raise AttnbenchError(f"nothing could be trained: {summary.failed[0]}")
    return request.out / "records"


def _table(probes: tuple[str, ...], mechanisms: tuple[str, ...] | None, records: Path, form: str) -> str:
    before_torch()  # a probe's question stands in its class
    from attnbench import store
    from attnbench.tables import probe_profile, probe_text

    found = [m for m in store.read(records, warn) if not mechanisms or m.cell.mechanism in mechanisms]
    profiles = probe_profile.profiles(found, probes)
    if not profiles:
        raise AttnbenchError(f"no record of {', '.join(probes)} in {records}; leave out --records to train")
    return probe_text.render(profiles, form)
