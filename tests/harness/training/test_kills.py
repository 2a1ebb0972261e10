"""Killed at any moment, by force, and begun again: the same weights as never killed."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import made_images
import pytest

from attnbench.harness.training import checkpoint
from attnbench.harness.training.journal import read_rows

KILLS = 20

# One process of which forks train, so that torch is imported once: each fork is killed for real.
SCRIPT = """
import os, sys
import torch
from attnbench.commands import train
from attnbench.harness.training import runs
from attnbench.harness.training.ranks import Ranks
from attnbench.progress import QuietProgress

torch.set_num_threads(1)
given = train.command.make_context("train", sys.argv[1:]).params
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        runs.train(runs.Request(**train.read(given)), Ranks(), QuietProgress())
        os._exit(0)
    print(child, flush=True)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


@pytest.mark.slow
def test_twenty_kills_at_random_moments_end_in_the_same_weights(tmp_path: Path) -> None:
    made = made_images.folder(tmp_path / "made", train=88, test=10)
    common = [
        "--layout=swin_pico", "--mechanism=shifted_window", "--recipe=biformer_stl", "--epochs=8",
        "--global-batch=8", "--resolution=32", "--checkpoint-every=2", f"--data={made}",
    ]  # fmt: skip
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    _run([*common, "--workers=0", f"--out={whole}"], 0)
    kills = _run([*common, "--workers=1", f"--out={killed}"], KILLS)
    assert kills == KILLS
    (end, one), (same, other) = (
        checkpoint.newest(folder, print) or pytest.fail("no checkpoint") for folder in (whole, killed)
    )
    assert end == same == 8 * 11
    assert one.tensors.keys() == other.tensors.keys()
    assert all(bool((tensor == other.tensors[name]).all()) for name, tensor in one.tensors.items())
    assert one.facts["history"] == other.facts["history"]
    for log in ("steps.csv", "log.csv"):
        rows = [
            [
                {k: v for k, v in row.items() if k not in ("images_per_s", "seconds")}
                for row in read_rows(f / log)
            ]
            for f in (whole, killed)
        ]
        assert rows[0] == rows[1]
    assert len(checkpoint.numbered(killed)) == checkpoint.KEPT
    assert not list(killed.glob(".*.part"))


def _run(arguments: list[str], kills: int) -> int:
    """Train to the end, killed so many times on the way; how many kills met a process that was at work."""
    draw = random.Random(0)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    met, status = 0, None
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
    ) as process:  # fmt: skip
        assert process.stdin
        assert process.stdout
        while status != 0:
            process.stdin.write("go\n")
            process.stdin.flush()
            child = int(process.stdout.readline())
            if met < kills:
                time.sleep(draw.uniform(0.05, 1.2))
                os.kill(child, signal.SIGKILL)
            status = int(process.stdout.readline())
            met += status == -signal.SIGKILL
            assert status in (0, -signal.SIGKILL)
            assert met == kills or status, "it ended before all kills: make the run longer"
        process.stdin.close()
    return met
