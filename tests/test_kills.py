"""kill -9 at random moments of a run: nothing is lost, doubled or unreadable, and the same command goes on.

Four kills by default; fifty take about six minutes:

    ATTNBENCH_KILLS=50 pytest tests/test_kills.py
"""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.alone

COMMAND = [sys.executable, "-m", "attnbench", "run", "--layout", "swin_pico", "--device", "cpu"]
COMMAND += ["--mechanisms", "full,pooling", "--metrics", "params,throughput", "--budget", "2"]
COMMAND += ["--modes", "infer", "--precision", "fp32"]
CELLS = 2 + 3
"""Parameters of two mechanisms; throughput of both and of the baseline."""


def lines(folder: Path) -> list[str]:
    """All lines that the run has written; each must be whole."""
    found: list[str] = []
    for path in sorted(folder.rglob("*.jsonl")):
        text = path.read_text()
        assert not text or text.endswith("\n"), f"{path} ends in a cut line"
        found += text.splitlines()
    for line in found:
        assert isinstance(json.loads(line), dict)
    return found


def keys(folder: Path) -> list[tuple[str, str]]:
    records = [line for path in folder.rglob("records/*.jsonl") for line in path.read_text().splitlines()]
    return [(record["key"], record["name"]) for record in map(json.loads, records)]


def workers(folder: Path) -> list[int]:
    """Processes that still work in the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cwd").resolve() == folder.resolve():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def finish(folder: Path) -> float:
    """Run to the end, check that all is there once, and return how long it took."""
    began = time.monotonic()
    done = subprocess.run(COMMAND, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = keys(folder)
    assert len(found) == len(set(found)) == CELLS
    return time.monotonic() - began


@pytest.mark.slow
def test_kill_at_random_moments(tmp_path: Path) -> None:
    draw = random.Random(5)
    length = finish(tmp_path)
    shutil.rmtree(tmp_path / "attnbench-results")
    interrupted = 0
    for _ in range(int(os.environ.get("ATTNBENCH_KILLS", "4"))):
        before = lines(tmp_path)
        running = subprocess.Popen(
            COMMAND, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(draw.uniform(0, length))
        interrupted += running.poll() is None
        running.kill()
        running.wait()
        after = lines(tmp_path)
        assert set(before) <= set(after)
        found = keys(tmp_path)
        assert len(found) == len(set(found))
        if len(found) == CELLS:  # complete: what follows would have nothing to interrupt
            shutil.rmtree(tmp_path / "attnbench-results")
    assert interrupted
    deadline = time.monotonic() + 10
    while workers(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not workers(tmp_path)
    finish(tmp_path)
