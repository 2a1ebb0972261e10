"""natten, an optional back end that takes no position bias: checked, measured and certified in the table."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from attnbench import store
from attnbench.backends import natten_na2d
from attnbench.errors import ImplementationError


def attnbench(*arguments: str, cwd: Path) -> str:
    command = [sys.executable, "-m", "attnbench", *arguments, "--set", "position_bias=false", "--out", "out"]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_what_natten_computes_is_checked_and_its_speed_stands_in_the_table(tmp_path: Path) -> None:
    try:
        natten_na2d()
    except ImplementationError as error:
        pytest.skip(str(error))
    attnbench("check", "neighborhood", cwd=tmp_path)
    how = ("--impl", "natten", "--modes", "infer", "--precision", "fp32", "--device", "cpu")
    how += ("--metrics", "params,throughput", "--in-process", "--preset", "quick")
    table = attnbench("run", "--mechanisms", "neighborhood", *how, cwd=tmp_path)
    assert re.search(r"^Neighborhood\S* .* \d\.\d\d [▲▼=]", table, re.M), table
    assert "Uncertified" not in table
    assert "unproven" not in table
    timed = [m for m in store.read(tmp_path / "out" / "records", pytest.fail) if m.name == "throughput"]
    assert [m.implementation for m in timed if m.cell.mechanism == "neighborhood"] == ["natten"]
