"""Unpack a wheel away from the checkout and use it as the README says: run by tox, not by pytest."""

import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from documents import example


def main(folder: Path) -> None:
    """Fail unless the newest wheel in ``folder`` lists what the checkout lists."""
    wheel = max(folder.glob("attnbench-*.whl"), key=os.path.getmtime)
    files = (*Path("mechanisms").glob("[!_]*.py"), *Path("mechanisms").glob("[!_]*/__init__.py"))
    expected = {path.parent.name if path.stem == "__init__" else path.stem for path in files}
    with tempfile.TemporaryDirectory() as scratch:
        zipfile.ZipFile(wheel).extractall(scratch)
        code = (
            "import attnbench, attnbench.tables as t, attnbench.harness.run.runner; "
            "print(attnbench.__file__); print(*attnbench.names()); assert t.published('top1')"
        )
        environment = {**os.environ, "PYTHONPATH": scratch}
        output = subprocess.run(
            [sys.executable, "-c", code],
            cwd=scratch,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.splitlines()
        assert output[0].startswith(str(Path(scratch).resolve())), f"not the wheel's code: {output[0]}"
        assert set(output[1].split()) == expected, f"not alike: {expected ^ set(output[1].split())}"
        benchmark(Path(scratch) / "empty", environment)
    print(f"{wheel.name}: {len(expected)} mechanisms")


def benchmark(folder: Path, environment: dict[str, str]) -> None:
    """pytest's benchmarks in a folder with nothing but a plug-in: measure, keep, compare."""
    folder.mkdir()
    (folder / "my_attention.py").write_text(example(), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--pyargs", "attnbench"]
    command += ["--benchmark-only", "--plugin=my_attention.py", "-k", "row"]
    for further, said in (
        ("--benchmark-save=before", "Saved benchmark data"),
        ("--benchmark-compare", "(0001_"),
    ):
        began = time.monotonic()
        done = subprocess.run(
            [*command, further], cwd=folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "test_attention[row-stage1-forward]" in done.stdout, done.stdout
        assert said in done.stdout + done.stderr, f"{said!r} is not in\n{done.stdout}{done.stderr}"
        print(f"pytest --benchmark-only {further}: {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
