"""The doctor finds out by running, tells absent from broken, and is not taken down by its patients."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from attnbench.harness import doctor

CPU = torch.device("cpu")


def test_absent_broken_and_working_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probes = {
        "clock": ("clock", "advice", False),
        "no such extra": ("no_such_method", "advice", False),
        "no such need": ("no_such_method", "advice", True),
        "model": ("model", "advice", True),
    }
    monkeypatch.setattr(doctor, "PROBES", probes)
    found = {finding.name: finding for finding in doctor.examine(CPU, tmp_path)}
    states = {name: finding.state for name, finding in found.items()}
    assert states == {
        "fresh processes": "ok",
        "clock": "ok",
        "no such extra": "absent",
        "no such need": "problem",
        "model": "ok",
    }
    assert found["no such need"].advice == "advice"
    assert found["model"].advice == ""
    assert "AttributeError" in found["no such need"].says


def test_a_full_disk_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_LEAST_DISK", 2**60)
    with pytest.raises(Exception, match="MiB left"):
        doctor.Probes(CPU, tmp_path / "deep" / "out").disk()


def test_nobody_is_told_to_install_what_is_installed() -> None:
    _, advice, _ = doctor.PROBES["natten"]
    assert doctor.advise(doctor.NOT_INSTALLED, advice) == advice
    broken = doctor.advise("natten does not run on cpu (RuntimeError: built for another torch)", advice)
    assert "install 'attnbench" not in broken


def test_every_probe_is_a_method_with_advice() -> None:
    for method, advice, _ in doctor.PROBES.values():
        assert getattr(doctor.Probes, method).__doc__
        assert advice or method == "versions"


@pytest.mark.slow
def test_the_command_works_with_nothing_optional(tmp_path: Path) -> None:
    call = [sys.executable, "-m", "attnbench", "doctor", "--device", "cpu"]
    asked = subprocess.run([*call, "--format", "json"], cwd=tmp_path, capture_output=True, check=False)
    assert asked.returncode == 0, asked.stderr
    found = {item["name"]: item for item in json.loads(asked.stdout)}
    assert set(found) == {"fresh processes", *doctor.PROBES}
    assert all(item["state"] == "ok" for item in found.values() if item["required"])
    assert all(item["advice"] for item in found.values() if item["state"] != "ok")
    assert not list(tmp_path.iterdir())
