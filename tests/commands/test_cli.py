"""The command line as a user meets it: the main job, resuming, plugins, and every mistake in one line."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import call

from attnbench.record import SCHEMA

PLUGIN = '''
import torch
from torch import Tensor, nn
from attnbench import Site, register_mechanism


@register_mechanism("gated", title="Gated mean", pattern="static", year=2026)
class Gated(nn.Module):
    """Every token sees the mean of the map through a gate."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.dim = site.dim
        self.proj = nn.Linear(site.dim, site.dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x * torch.sigmoid(x.mean((1, 2), keepdim=True)))

    def macs(self, height: int, width: int) -> dict[str, int]:
        return {"projection": height * width * self.dim**2}
'''
QUICK = ["--layout", "swin_pico", "--device", "cpu"]
FEW = ["run", *QUICK, "--mechanisms", "full,shifted_window"]


def attnbench(
    *arguments: str, cwd: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "attnbench", *arguments],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )


def records(folder: Path) -> list[dict]:
    lines = [line for path in folder.rglob("records/*.jsonl") for line in path.read_text().splitlines()]
    return [json.loads(line) for line in lines]


@pytest.fixture
def plugin(tmp_path: Path) -> str:
    path = tmp_path / "elsewhere" / "gated.py"
    path.parent.mkdir()
    path.write_text(PLUGIN)
    return str(path)


@pytest.mark.slow
def test_main_job_fills_every_cell_and_repeats_nothing(tmp_path: Path) -> None:
    first = attnbench(*FEW, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    found = records(tmp_path)
    assert {r["status"] for r in found} == {"ok"}
    # params, seven kinds of MACs, memory and throughput in two modes and precisions: for two; throughput for
    # the baseline
    assert len(found) == 2 * (1 + 7 + 4 + 4) + 4
    assert "Full" in first.stdout
    assert "— [" not in first.stdout
    again = attnbench(*FEW, cwd=tmp_path)
    assert "0 cells measured, 24 were there already" in again.stdout
    assert records(tmp_path) == found
    forced = attnbench(*FEW, "--metrics", "params", "--force", cwd=tmp_path)
    assert "2 cells measured;" in forced.stdout
    for record in found:
        assert record["environment"]["libraries"]["torch"]
        if record["name"] == "throughput":
            assert len(record["samples"]) >= 3
            assert record["spread"]["min"] <= record["value"] <= record["spread"]["max"]
            assert record["details"]["interleaved_with"]


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.3, 1.5])
def test_kill_in_the_middle_then_the_same_command(tmp_path: Path, delay: float) -> None:
    arguments = [*FEW, "--metrics", "params,macs,throughput", "--modes", "infer"]
    running = subprocess.Popen(
        [sys.executable, "-m", "attnbench", *arguments], cwd=tmp_path, stderr=subprocess.DEVNULL
    )
    while not list(tmp_path.rglob("blocks/*.jsonl")):
        time.sleep(0.05)
    time.sleep(delay)
    running.send_signal(signal.SIGKILL)
    running.wait()
    before = [line for path in tmp_path.rglob("*.jsonl") for line in path.read_text().splitlines()]
    again = attnbench(*arguments, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    after = [line for path in tmp_path.rglob("*.jsonl") for line in path.read_text().splitlines()]
    assert set(before) <= set(after)
    keys = [(r["key"], r["name"]) for r in records(tmp_path)]
    assert len(keys) == len(set(keys)) == 2 * (1 + 7 + 2) + 2


def test_plugin_in_list_run_and_table(tmp_path: Path, plugin: str) -> None:
    listed = attnbench("list", "--plugin", plugin, "--format", "json", cwd=tmp_path)
    assert any(row["name"] == "gated" and row["year"] == 2026 for row in json.loads(listed.stdout))
    arguments = [*QUICK, "--plugin", plugin, "--mechanisms", "gated", "--metrics", "params,macs"]
    run = attnbench("run", *arguments, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "Gated mean" in run.stdout
    table = attnbench("table", "ablation", "--format", "csv", cwd=tmp_path)
    (row,) = csv.DictReader(io.StringIO(table.stdout))
    assert row["mechanism"] == "gated"
    assert int(row["macs"]) == int(row["macs_counted"])


def test_options_are_rows_of_their_own(tmp_path: Path) -> None:
    one = ["run", "--mechanisms", "bra", "--metrics", "params,macs"]
    attnbench(*one, cwd=tmp_path)
    run = attnbench(*one, "--set", "topk=[1,1,1,null]", "--set", "lepe_kernel=3", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    table = attnbench("table", "ablation", "--format", "csv", cwd=tmp_path)
    rows = {row["mechanism"]: int(row["macs"]) for row in csv.DictReader(io.StringIO(table.stdout))}
    assert set(rows) == {"bra", "bra[lepe_kernel=3, topk=[1, 1, 1, null]]"}
    assert rows["bra"] > min(rows.values())


def test_plugin_from_the_environment(tmp_path: Path, plugin: str) -> None:
    listed = attnbench("list", cwd=tmp_path, env={"ATTNBENCH_PLUGINS": plugin})
    assert "gated" in listed.stdout


def test_broken_plugin_is_listed_and_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import no_such_package\n")
    listed = attnbench("list", "--plugin", "broken.py", cwd=tmp_path)
    assert listed.returncode == 0
    assert "No module named 'no_such_package'" in listed.stdout
    assert "shifted_window" in listed.stdout


def test_mechanism_that_fails_when_run_is_a_record_with_a_reason(tmp_path: Path) -> None:
    text = PLUGIN.replace("return self.proj", "raise RuntimeError('by design')\n        return self.proj")
    (tmp_path / "bad.py").write_text(text)
    run = attnbench(
        "run",
        *QUICK,
        "--plugin",
        "bad.py",
        "--mechanisms",
        "gated,full",
        "--metrics",
        "params,macs",
        cwd=tmp_path,
    )
    assert run.returncode == 3
    assert "failed: gated macs: RuntimeError: by design" in run.stderr
    assert {r["status"] for r in records(tmp_path) if r["cell"]["mechanism"] == "full"} == {"ok"}


def test_table_is_written_to_a_file(tmp_path: Path) -> None:
    attnbench(*FEW, "--metrics", "params", cwd=tmp_path)
    table = attnbench("table", "ablation", "--format", "latex", "--output", "t.tex", cwd=tmp_path)
    assert table.returncode == 0
    assert r"\toprule" in (tmp_path / "t.tex").read_text()


def test_golden_command(tmp_path: Path) -> None:
    golden = str(Path(__file__).parents[1] / "golden")
    good = attnbench("check", "--golden", golden, "full", cwd=tmp_path)
    assert good.returncode == 0
    assert good.stdout.splitlines()[-1].startswith("2 of 2 equal, in ")
    none = attnbench("check", "--golden", golden, "identity", cwd=tmp_path)
    assert none.returncode == 1


def _run(*arguments: str) -> list[str]:
    return ["run", "--metrics", "params", *arguments]


MISTAKES = {
    "a list in two options": (["run", "--mechanisms", "full", "--mechanisms=bra"], "separated by commas"),
    "an option twice": (["run", "--seed", "1", "--seed", "2"], "--seed is given twice; give it once"),
    "mechanism": (_run("--mechanisms", "bro"), "unknown mechanism 'bro'; did you mean bra"),
    "metric": (["run", "--metrics", "flops"], "unknown metric 'flops'"),
    "layout": (_run("--layout", "swin_s"), "unknown layout 'swin_s'; did you mean swin_t"),
    "device": (_run("--device", "tpu"), "unknown device 'tpu'"),
    "absent device": (_run("--device", "cuda:99"), "device 'cuda:99' is absent here"),
    "resolution 0": (
        _run("--resolution", "0"),
        "must be a whole number from 1 to 65536, got '0'",
    ),
    "resolution text": (_run("--resolution", "big"), "'--resolution': must be a whole number"),
    "batch size": (_run("--batch-size", "-2"), "'--batch-size': must be a whole number"),
    "seed": (_run("--seed", "-1"), "'--seed': must be a whole number from 0"),
    "precision": (_run("--precision", "fp8"), "unknown precision 'fp8'"),
    "mode": (_run("--modes", "test"), "unknown mode 'test'"),
    "preset": (_run("--preset", "slow"), "unknown preset 'slow'"),
    "impl": (_run("--impl", "cudnn"), "unknown implementation"),
    "setting": (_run("--set", "topk"), "'--set': must be OPTION=VALUE, got 'topk'"),
    "option value": (_run("--mechanisms", "bra", "--set", "topk=99"), "bra cannot be built"),
    "option name": (_run("--mechanisms", "full", "--set", "topk=1"), "unknown option of full 'topk'"),
    "plugin": (_run("--plugin", "nowhere.py"), "is not a Python file"),
    "option": (["run", "--speed", "9"], "No such option"),
    "command": (["ruin"], "No such command 'ruin'"),
    "table": (["table", "tabel"], "unknown table 'tabel'; did you mean table"),
    "no records": (["table", "ablation"], "no records at"),
    "format": (["table", "ablation", "--records", "file", "--format", "pdf"], "unknown format 'pdf'"),
    "unwritable": (_run("--out", "file"), "cannot write file"),
    "golden": (["check", "--golden", "."], "is not a golden manifest"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_one_clear_line_and_status_2(tmp_path: Path, mistake: str) -> None:
    (tmp_path / "file").touch()
    arguments, message = MISTAKES[mistake]
    said = call(*arguments, cwd=tmp_path)
    assert said.status == 2, said
    (line,) = said.err.splitlines()
    assert message in line
    assert line.startswith("attnbench: error: ")


def test_cut_and_newer_lines_are_warnings(tmp_path: Path) -> None:
    attnbench(*FEW, "--metrics", "params", cwd=tmp_path)
    (path,) = tmp_path.rglob("*.jsonl")
    with path.open("a") as file:
        file.write(json.dumps({"schema_version": SCHEMA + 1}) + '\n{"schema_version": 1, "cel')
    table = attnbench("table", "ablation", cwd=tmp_path)
    assert table.returncode == 0
    assert [line.split(": ")[0] for line in table.stderr.splitlines()] == ["warning", "warning"]
    assert "Shifted window" in table.stdout


def test_list_loads_nothing_large() -> None:
    """What makes it answer at once: neither torch nor pandas nor anything that needs them is imported."""
    code = (
        "import sys\nfrom attnbench.__main__ import cli\ncli.main(['list'], standalone_mode=False)\n"
        "print([name for name in ('torch', 'pandas', 'numpy', 'scipy', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
