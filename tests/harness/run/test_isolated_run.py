"""Mechanisms that take their process with them cost their own cells, and the run goes on."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from attnbench.record import SCHEMA

pytestmark = pytest.mark.alone

PLUGIN = """
import ctypes, os, resource, signal, time
import torch
from torch import Tensor, nn
from attnbench import Site, register_mechanism


class Rough(nn.Module):
    def __init__(self, site: Site) -> None:
        super().__init__()
        self.dim = site.dim
        self.proj = nn.Linear(site.dim, site.dim)

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_meta:
            self.misbehave()
        return self.proj(x)

    def macs(self, height: int, width: int) -> dict[str, int]:
        return {"projection": height * width * self.dim**2}


@register_mechanism("segfault")
class Segfault(Rough):
    def misbehave(self):
        ctypes.string_at(0)


@register_mechanism("hang")
class Hang(Rough):
    def misbehave(self):
        print("round and round")
        time.sleep(600)


@register_mechanism("greedy")
class Greedy(Rough):
    def misbehave(self):
        limit = 2**28 + int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        torch.empty(2**33)


@register_mechanism("killed")
class Killed(Rough):
    def misbehave(self):
        os.kill(os.getpid(), signal.SIGKILL)


@register_mechanism("raises")
class Raises(Rough):
    def misbehave(self):
        raise RuntimeError("by design")


@register_mechanism("stillborn")
class Stillborn(Rough):
    def __init__(self, site: Site) -> None:
        ctypes.string_at(0)
"""
EXPECTED = {
    "segfault": ("crashed", "segmentation fault (SIGSEGV) at rough.py:"),
    "hang": ("timed_out", "no answer within 8 s"),
    "greedy": ("out_of_memory", "allocate"),
    "killed": ("crashed", "the process was killed (SIGKILL)"),
    "raises": ("failed", "RuntimeError: by design"),
    "stillborn": ("crashed", "segmentation fault (SIGSEGV) at rough.py:"),
}


def run(folder: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], list[dict]]:
    (folder / "rough.py").write_text(PLUGIN)
    options = ["--layout", "swin_pico", "--device", "cpu", "--modes", "infer", "--precision", "fp32"]
    result = subprocess.run(
        [sys.executable, "-m", "attnbench", "run", *options, "--plugin", "rough.py", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for path in folder.rglob("records/*.jsonl") for line in path.read_text().splitlines()]
    return result, [json.loads(line) for line in lines]


def test_a_crash_costs_its_cell_only(tmp_path: Path) -> None:
    names = ["segfault", "killed", "raises", "stillborn", "full"]
    result, found = run(tmp_path, "--mechanisms", ",".join(names), "--metrics", "params,macs,memory")
    assert result.returncode == 3, result.stderr
    for name in names[:-1]:
        of_name = {r["cell"]["metric"]: r for r in found if r["cell"]["mechanism"] == name}
        status, reason = EXPECTED[name]
        assert of_name["memory"]["status"] == status
        assert reason in of_name["memory"]["reason"]
        assert reason in result.stderr.partition("failed: ")[2]
        assert of_name["params"]["status"] == ("crashed" if name == "stillborn" else "ok")
    assert {r["status"] for r in found if r["cell"]["mechanism"] == "full"} == {"ok"}
    wide = subprocess.run(
        [sys.executable, "-m", "attnbench", "table", "ablation", "--format", "md", "--plugin", "rough.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "crashed: segmentation fault" in wide.stdout, wide.stderr  # a note below the whole table
    keys = [(r["key"], r["name"]) for r in found]
    assert len(keys) == len(set(keys))


@pytest.mark.slow
def test_all_that_can_go_wrong_in_one_run(tmp_path: Path) -> None:
    metrics = ["--metrics", "memory,throughput", "--time-limit", "8"]
    result, found = run(tmp_path, "--mechanisms", ",".join([*EXPECTED, "full"]), *metrics)
    assert result.returncode == 3, result.stderr
    for name, (status, reason) in EXPECTED.items():
        of_name = [r for r in found if r["cell"]["mechanism"] == name]
        assert [r["cell"]["metric"] for r in of_name] == ["memory", "throughput"]
        assert {r["status"] for r in of_name} == {status}
        assert all(reason in r["reason"] for r in of_name)
    good = [r for r in found if r["cell"]["mechanism"] in ("full", "timm_swin")]
    assert {r["status"] for r in good} == {"ok"}
    assert "round and round" not in result.stdout + result.stderr
    again, after = run(tmp_path, "--mechanisms", ",".join([*EXPECTED, "full"]), *metrics)
    assert "0 cells measured" in again.stdout  # a failure is a result, and --force tries again
    assert after == found


def test_in_process_measures_in_the_process_itself(tmp_path: Path) -> None:
    arguments = ["--mechanisms", "killed,full", "--metrics", "memory"]
    result, _ = run(tmp_path, *arguments, "--in-process")
    assert result.returncode == 4
    assert "killed (SIGKILL)" in result.stderr
    result, found = run(tmp_path, *arguments)
    assert result.returncode == 3
    assert {r["environment"]["isolation"] for r in found if r["status"] == "ok"} == {"process"}


def test_a_cell_says_how_it_was_isolated_and_what_was_set(tmp_path: Path) -> None:
    arguments = ["--mechanisms", "full", "--metrics", "memory", "--force"]
    run(tmp_path, *arguments)
    _, found = run(tmp_path, *arguments, "--in-process")
    apart, here = found
    assert apart["schema_version"] == SCHEMA
    assert apart["certificate"]
    assert apart["cell"]["layout_digest"]
    assert [r["environment"].pop("isolation") for r in found] == ["process", "none"]
    assert {"tf32_matmul", "tf32_cudnn", "deterministic", "cudnn_benchmark", "threads", "affinity"} <= set(
        apart["environment"]
    )
    assert apart["environment"]["threads"] == here["environment"]["threads"]
    assert apart["environment"]["allocator"] == here["environment"]["allocator"]
    assert apart["value"] == here["value"]
