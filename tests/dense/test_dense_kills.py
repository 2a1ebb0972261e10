"""A dense model's training killed by force and begun again: the same weights as never killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from dense_models import WIDTHS

from attnbench.harness.training.checkpoint import newest
from attnbench.harness.training.journal import read_rows
from attnbench.heads import HEADS

AT = 4
"""Steps after which it is killed, of 24, so that it is not at its end before; each has a checkpoint."""


def start(head: str, out: Path) -> subprocess.Popen[bytes]:
    task = "semantic" if head in ("sem_fpn", "upernet") else "detection"
    changes = {"schedule.iterations": 24, "test.every": 12, "global_batch": 2, "schedule.warmup": 2}
    changes |= {f"widths.{name}": width for name, width in WIDTHS[head].items()}
    command = [sys.executable, "-m", "attnbench", "train", f"--task={task}", "--layout=swin_pico"]
    command += ["--mechanism=bra", "--data=scenes", f"--recipe=scenes_{head}", "--workers=0"]
    command += ["--data-option=train=24", "--data-option=test=3", "--checkpoint-every=1", f"--out={out}"]
    command += [f"--recipe-set={name}={value}" for name, value in changes.items()]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, **quiet)


def steps(out: Path) -> int:
    path = out / "steps.csv"
    return len(read_rows(path)) if path.exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_killed_it_ends_in_the_same_weights(head: str, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(head, whole).wait() == 0
    process = start(head, killed)
    while process.poll() is None and steps(killed) < AT:
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
    assert start(head, killed).wait() == 0
    (end, one), (same, other) = (newest(folder, print) or pytest.fail("none") for folder in (whole, killed))
    assert end == same == 24
    assert one.tensors.keys() == other.tensors.keys()
    assert all(bool((tensor == other.tensors[name]).all()) for name, tensor in one.tensors.items())
