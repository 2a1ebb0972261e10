"""``attnbench submit``: a sweep of commands as jobs of a SLURM cluster."""

import shlex
from pathlib import Path
from typing import Any

import click

from attnbench import cluster
from attnbench.commands import _types
from attnbench.commands._arguments import DEFAULT_OUT
from attnbench.errors import AttnbenchError, UnknownNameError

_CLUSTER = _types.OneOf("cluster", "slurm", "local")


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option(
    "--out", type=_types.Folder(), default=DEFAULT_OUT, show_default=True, help="Store of all jobs."
)
@click.option("--partition", type=_types.Word(), help="Of SLURM.")
@click.option("--minutes", type=_types.Whole(1, 60 * 24 * 30), default=60 * 24, show_default=True)
@click.option("--gpus", type=_types.Whole(0, 8), default=1, show_default=True, help="Devices of a job.")
@click.option("--cpus", type=_types.Whole(1, 512), default=8, show_default=True, help="Cores of a job.")
@click.option("--at-once", type=_types.Whole(1, 10000), default=256, show_default=True, help="Jobs.")
@click.option("--slurm", "more", type=_types.Setting(), multiple=True, help="KEY=VALUE, an option of sbatch.")
@click.option("--cluster", "where", type=_CLUSTER, default="slurm", show_default=True)
@click.option("--wait", is_flag=True, help="Until all jobs have ended.")
@click.option("--dry-run", is_flag=True, help="Print the commands only.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, required=True)
def command(arguments: tuple[str, ...], out: Path, more: tuple[tuple[str, Any], ...], **given: Any) -> None:
    """Run a command of attnbench for every combination of what its options list, one job each.

    \b
    attnbench submit --partition gpu --out sweep \\
        train --mechanism bra,full --seed 0,1,2 --recipe swin_100e --layout swin_t --data imagenet:/data
    attnbench submit --out sweep run --mechanisms bra,full --metrics throughput

    Values with commas of --layout, --mechanism, --mechanisms, --recipe, --seed and --data are multiplied. A
    job that is killed, preempted or out of time is queued again and goes on where it stopped.
    """
    lines = [_placed(line, out) for line in cluster.sweep(arguments)]
    for line in lines:
        _check(line)
    if given["dry_run"]:
        for line in lines:
            click.echo(shlex.join(("attnbench", *line)))
        return
    folder = out / "jobs"
    jobs = cluster.submit(lines, folder, _parameters(given, more), given["where"])
    for job, line in zip(jobs, lines, strict=True):
        click.echo(f"{job.job_id}: {shlex.join(('attnbench', *line))}")
    click.echo(f"logs: {folder}; records: {out}")
    if given["wait"]:
        _wait(jobs)


def _placed(line: tuple[str, ...], out: Path) -> tuple[str, ...]:
    """A command with its place below ``out``: training has a folder of its own, the rest share the store."""
    if any(argument == "--out" or argument.startswith("--out=") for argument in line):
        raise AttnbenchError("--out goes before the command: all jobs write into one store")
    if line[0] != "train":
        return (*line, "--out", str(out))
    from attnbench.commands import train

    given = train.command.make_context("train", list(line[1:])).params
    return (*line, "--out", str(out / Path(train.read(given)["out"]).name))


def _check(line: tuple[str, ...]) -> None:
    """Refuse, before anything is queued, what would fail in every job."""
    from attnbench.__main__ import cli

    context = click.Context(cli)
    found = cli.get_command(context, line[0])
    if found is None or line[0] == "submit":
        raise UnknownNameError("command", line[0], cli.list_commands(context))
    if not any("--out" in parameter.opts for parameter in found.params):
        raise AttnbenchError(f"'attnbench {line[0]}' keeps nothing (it has no --out): give one that does")
    found.make_context(line[0], list(line[1:]))


def _parameters(given: dict[str, Any], more: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    parameters: dict[str, Any] = {"timeout_min": given["minutes"], "name": "attnbench"}
    if given["where"] == "local":
        return parameters
    parameters |= {"cpus_per_task": given["cpus"], "slurm_array_parallelism": given["at_once"]}
    if given["gpus"]:
        parameters["gpus_per_node"] = given["gpus"]
    if given["partition"]:
        parameters["slurm_partition"] = given["partition"]
    return parameters | ({"slurm_additional_parameters": dict(more)} if more else {})


def _wait(jobs: list[Any]) -> None:
    failed = []
    for job in jobs:
        error = job.exception()
        if error is not None:
            failed.append(
                f"{job.job_id}: {str(error).splitlines()[-1] if str(error) else type(error).__name__}"
            )
    if failed:
        raise AttnbenchError(f"{len(failed)} of {len(jobs)} jobs failed: {'; '.join(failed)[:1000]}")
