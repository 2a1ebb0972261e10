"""Unpack a wheel away from the checkout and list the mechanisms with it: run by tox, not by pytest."""

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path


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
    print(f"{wheel.name}: {len(expected)} mechanisms")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
