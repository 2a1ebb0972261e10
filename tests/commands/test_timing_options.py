"""The options of ``attnbench run`` that concern timing, as a user meets them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

QUICK = ("run", "--layout", "swin_pico", "--device", "cpu", "--metrics", "throughput", "--mechanisms", "full")


def attnbench(
    *arguments: str, cwd: Path, environ: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "attnbench", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env=environ)


@pytest.mark.slow
def test_a_model_against_itself(tmp_path: Path) -> None:
    found = attnbench(*QUICK[:5], "--aa", "--runs", "2", "--budget", "2", "--processes", "4", cwd=tmp_path)
    assert "95 % interval" in found.stdout
    assert "timm_swin throughput infer fp32, swin_pico, batch 1, against itself: " in found.stdout
    assert "false alarms in 2 runs" in found.stdout
    assert "the harness's own share of the time" in found.stdout
    assert found.returncode == (2 if "faster" in found.stdout or "slower" in found.stdout else 0)


@pytest.mark.slow
def test_baseline_regimes_threads_and_precision_are_in_the_record(tmp_path: Path) -> None:
    options = ["--baseline", "timm_swin_sdpa", "--regime", "fixed,latency", "--threads", "1", "--tf32"]
    found = attnbench(*QUICK, "--modes", "infer", "--precision", "fp32", *options, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    paths = list(tmp_path.rglob("records/*.jsonl"))
    records = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    assert {(r["cell"]["mechanism"], r["cell"]["regime"]) for r in records} == {
        (name, regime) for name in ("full", "timm_swin_sdpa") for regime in ("", "latency")
    }
    for record in records:
        assert record["status"] == "ok", record["reason"]
        assert record["cell"]["precision"] == "tf32"
        assert record["environment"]["threads"] == 1
        assert record["environment"]["tf32_matmul"] is record["environment"]["tf32_cudnn"] is True
        assert record["details"]["baseline"] == "timm_swin_sdpa"
        assert ("latency_ms" in record["details"]) == (record["cell"]["regime"] == "latency")
    again = attnbench(*QUICK, "--modes", "infer", "--precision", "fp32", *options, cwd=tmp_path)
    assert "0 cells measured, 4 were there already" in again.stdout


@pytest.mark.slow
def test_a_candidate_lives_in_as_many_processes_as_are_asked_for(tmp_path: Path) -> None:
    conditions = ["--modes", "infer", "--precision", "fp32", "--threads", "1"]
    environ = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    options = [*conditions, "--processes", "2", "--budget", "1"]
    found = attnbench(*QUICK, *options, cwd=tmp_path, environ=environ)
    assert found.returncode == 0, found.stderr
    paths = list(tmp_path.rglob("records/*.jsonl"))
    records = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    assert {r["cell"]["mechanism"] for r in records} == {"full", "timm_swin"}
    for record in records:
        assert set(record["details"]["process_of_block"]) == {0, 1}
        assert len(record["details"]["process_of_block"]) == len(record["samples"])
        assert "OMP_WAIT_POLICY" not in record["environment"]["thread_settings"]  # as the user has it
    (full,) = (r["details"] for r in records if r["cell"]["mechanism"] == "full")
    assert (full["interval"], full["processes"], full["margin"]) == ("processes", 2, 0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--baseline", "swin"), "swin"),
        (("--regime", "largets"), "did you mean"),
        (("--threads", "none"), "'--threads': must be a whole number"),
        (("--aa", "--baseline", "none"), "--aa compares the baseline"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    found = attnbench(*QUICK, *options, cwd=tmp_path)
    assert found.returncode == 2
    assert message in found.stderr
    assert len(found.stderr.strip().splitlines()) == 1
