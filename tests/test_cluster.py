"""Sweeps as jobs: what they are made of, and a real SLURM that runs, requeues and resumes them."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import one_node_slurm
import pytest
from click.testing import CliRunner

from attnbench import cluster, store
from attnbench.__main__ import cli
from attnbench.errors import AttnbenchError

TRAIN = ("train", "--layout=swin_pico", "--data=digits", "--recipe=quick", "--workers=0", "--device=cpu")


def submit(*arguments: str) -> str:
    """What ``attnbench submit`` prints; its error raised."""
    done = CliRunner().invoke(cli, ["submit", *arguments], catch_exceptions=True)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def test_a_sweep_is_the_product_of_what_options_list() -> None:
    found = cluster.sweep(["train", "--mechanism", "bra,full", "--set", "topk=[1,2]", "--seed=0,1"])
    assert found == [
        ("train", "--mechanism", mechanism, "--set", "topk=[1,2]", f"--seed={seed}")
        for mechanism in ("bra", "full")
        for seed in (0, 1)
    ]
    assert cluster.sweep(["run", "--metrics", "params,macs"]) == [("run", "--metrics", "params,macs")]


def test_every_training_has_a_folder_and_runs_share_the_store(tmp_path: Path) -> None:
    out = submit("--out", str(tmp_path), "--dry-run", *TRAIN, "--mechanism", "bra,full", "--seed", "0,1")
    folders = [line.rpartition("--out ")[2] for line in out.splitlines()]
    assert len(set(folders)) == 4
    assert all(Path(folder).parent == tmp_path for folder in folders)
    runs = submit(
        "--out", str(tmp_path), "--dry-run", "run", "--mechanisms", "bra,full", "--metrics", "params"
    )
    assert [line.split()[2:] for line in runs.splitlines()] == [
        ["--mechanisms", name, "--metrics", "params", "--out", str(tmp_path)] for name in ("bra", "full")
    ]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("trian",), "unknown command 'trian'; did you mean"),
        (("submit", "run"), "unknown command 'submit'"),
        (("list",), "keeps nothing"),
        (("run", "--out", "x"), "--out goes before the command"),
        ((*TRAIN, "--mechanism", "full,fool"), "unknown mechanism 'fool'"),
        ((*TRAIN, "--mechanism", "full", "--epochs", "none"), "none"),
        (("--slurm", "x", "run"), "must be OPTION=VALUE"),
    ],
)
def test_what_every_job_would_fail_at_is_refused_first(arguments: tuple[str, ...], told: str) -> None:
    done = CliRunner().invoke(cli, ["submit", *arguments])
    assert done.exit_code
    assert told in f"{done.output}{done.exception}"


def test_where_there_is_no_slurm_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AttnbenchError, match=r"the cluster takes no jobs: .*--cluster local runs them here"):
        cluster.submit([("list",)], tmp_path, {"timeout_min": 1})


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[None]:
    if reason := one_node_slurm.why_not():
        pytest.skip(reason)
    with one_node_slurm.running(tmp_path / "slurm"):
        yield


def _sbatch(*arguments: str) -> str:
    return subprocess.run(arguments, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_slurm_runs_a_sweep_requeues_a_job_and_ends_as_by_hand(slurm: None, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    common = (*TRAIN, "--seed=3", "--epochs=2", "--checkpoint-every=1")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    start = [sys.executable, "-m", "attnbench", "submit", "--gpus=0", "--cpus=1", "--minutes=20"]
    done = subprocess.run(
        [*start, "--out", str(out), *common, "--mechanism", "identity,full"],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ids = [line.partition(":")[0] for line in done.stdout.splitlines()[:2]]
    folder = next(out.glob("*identity*"), None) or out / "none yet"
    _until(lambda: any(out.glob("*identity*/checkpoint-*")), "a first checkpoint")
    _sbatch("scontrol", "requeue", ids[0])
    _until(lambda: not _sbatch("squeue", "-h").strip(), "the jobs to end")
    folder = next(out.glob("*identity*"))
    logs = "".join(path.read_text() for path in (out / "jobs").glob(f"{ids[0]}*.err"))
    assert "going on from update" in logs
    found = {(m.cell.mechanism, m.name): m.value for m in store.read(out, print)}
    assert {mechanism for mechanism, _ in found} == {"identity", "full"}
    by_hand = tmp_path / "by hand"
    line = [sys.executable, "-m", "attnbench", *common, "--mechanism=identity", "--out", str(by_hand)]
    subprocess.run(line, check=True, capture_output=True, env=environment)
    (one, ours), (other, theirs) = (_last(place) for place in (folder, by_hand))
    assert one == other
    assert ours["facts"] == theirs["facts"]
    assert all(bool((tensor == theirs["tensors"][name]).all()) for name, tensor in ours["tensors"].items())


def _last(folder: Path) -> tuple[str, dict[str, Any]]:
    from attnbench.harness.training import checkpoint

    path = max(folder.glob("checkpoint-*"))
    return path.name, vars(checkpoint.read(path))


def _until(true: object, what: str, seconds: float = 600.0) -> None:
    end = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.5)
