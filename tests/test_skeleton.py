"""What ``attnbench new`` writes is short, in the house's style, and passes every check."""

import subprocess
import sys
from pathlib import Path

import pytest

from attnbench import AttnbenchError, registry, skeleton
from attnbench.harness.conformance import checks

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.usefixtures("isolated_registry")
def test_the_skeleton_passes_the_whole_suite(tmp_path: Path) -> None:
    path = tmp_path / "my_attention.py"
    assert skeleton.write(path) == "my_attention"
    results = checks.check_mechanism(str(path))
    assert [str(result) for result in results if result.failed] == []
    assert len(results) == len(checks.CHECKS)


@pytest.mark.usefixtures("isolated_registry")
def test_the_skeleton_is_about_30_lines_and_holds_what_others_use(tmp_path: Path) -> None:
    path = tmp_path / "rows_first.py"
    skeleton.write(path)
    assert len(path.read_text().splitlines()) < 40
    for command in (["check"], ["format", "--check"]):
        config = ["--config", str(ROOT / "pyproject.toml")]
        done = subprocess.run([sys.executable, "-m", "ruff", *command, *config, str(path)], check=False)
        assert done.returncode == 0
    registry.add_plugin(path)
    assert registry.get("rows_first").facts.title == "Rows first"
    quick = ["builds", "odd_sizes", "macs_equal_counted", "parameters_used", "support"]
    results = checks.check_mechanism("rows_first", only=quick)
    assert [str(result) for result in results if result.failed] == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my attention.py", "must be a Python file whose name is the mechanism's"),
        ("my_attention.txt", "must be a Python file"),
        ("_mine.py", "must be a Python file"),
        ("class.py", "must be a Python file"),
        ("bra.py", "there is a mechanism bra"),
        ("there.py", "there.py exists; it was left as it is"),
        ("nowhere/mine.py", "cannot write .*nowhere/mine.py: No such file"),
    ],
)
def test_what_cannot_be_written_is_one_clear_error(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "there.py").write_text("mine")
    with pytest.raises(AttnbenchError, match=message):
        skeleton.write(tmp_path / name)
    assert (tmp_path / "there.py").read_text() == "mine"
