"""The example package is installed as a user would, found by its entry point, checked and measured."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from attnbench import skeleton

EXAMPLE = Path(__file__).parent.parent / "examples" / "attention_package"
QUICK = "builds,odd_sizes,parameter_count,macs_equal_counted,support"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which the package is installed, into a folder of its own."""
    folder = tmp_path_factory.mktemp("package")
    source = shutil.copytree(EXAMPLE, folder / "source")  # setuptools builds in the tree
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [
            *command,
            "--no-index",
            "--disable-pip-version-check",
            "--target",
            str(folder / "site"),
            str(source),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    paths = [str(folder / "site"), str(EXAMPLE.parent.parent)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def attnbench(environment: dict[str, str], cwd: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "attnbench", *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_listed_checked_and_measured(installed: dict[str, str], tmp_path: Path) -> None:
    assert "row_attention" in attnbench(installed, tmp_path, "list")
    told = attnbench(installed, tmp_path, "check", "row_attention", "--only", QUICK)
    assert "5 passed, 0 failed" in told
    run = [
        "run",
        "--mechanisms",
        "row_attention",
        "--layout",
        "swin_pico",
        "--metrics",
        "params",
        "--in-process",
    ]
    assert "Row attention" in attnbench(installed, tmp_path, *run)


def test_it_is_what_new_writes() -> None:
    assert (EXAMPLE / "row_attention.py").read_text() == skeleton.text("row_attention")
