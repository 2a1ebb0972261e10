"""Certificates: of one source and one suite, own before shipped; and the command that writes them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from attnbench import AttnbenchError, certificates, get
from attnbench.harness.conformance.checks import Result

PLUGIN = """
import torch
from torch import Tensor, nn
from attnbench import Site, register_mechanism


@register_mechanism("doubled", pattern="static")
class Doubled(nn.Module):
    def __init__(self, site: Site) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x

    def macs(self, height: int, width: int) -> dict[str, int]:
        return {}

    def parameter_count(self) -> int:
        return 0

    def support(self, height: int, width: int) -> Tensor:
        return torch.eye(height * width, dtype=torch.bool)
"""


def result(check: str, passed: bool) -> Result:
    return Result(check, passed, "", "", 0.1)


@pytest.fixture(autouse=True)
def no_shipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(certificates, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setattr(certificates, "OWN", tmp_path / "own")
    return tmp_path


def test_a_passing_run_certifies_the_source_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    assert not certificates.is_valid("bra", folder=folder)
    path = certificates.write(folder, certificates.Certificate.of(get("bra"), [result("builds", True)]))
    assert path.name == "bra.json"
    assert json.loads(path.read_text())["versions"].keys() == {"attnbench", "torch", "python"}
    assert certificates.is_valid("bra", folder=folder)
    assert certificates.is_valid("bra", get("bra").digest(), folder)
    assert not certificates.is_valid("bra", "of another source", folder)
    assert not certificates.is_valid("nonesuch", folder=folder)


def test_a_failure_or_no_result_does_not_certify(tmp_path: Path) -> None:
    for results in ([result("builds", True), result("support", False)], []):
        certificates.write(tmp_path / "own", certificates.Certificate.of(get("bra"), results))
        assert not certificates.is_valid("bra", folder=tmp_path / "own")


def test_own_certificate_of_the_same_source_comes_before_the_shipped_one(tmp_path: Path) -> None:
    good, bad = (certificates.Certificate.of(get("bra"), [result("builds", p)]) for p in (True, False))
    certificates.write(tmp_path / "shipped", good)
    assert certificates.is_valid("bra", folder=tmp_path / "own")
    certificates.write(tmp_path / "own", bad)
    assert not certificates.is_valid("bra", folder=tmp_path / "own")
    certificates.write(tmp_path / "own", bad.model_copy(update={"digest": "older"}))
    assert certificates.is_valid("bra", folder=tmp_path / "own")


def test_another_suite_or_a_foreign_file_is_no_certificate(tmp_path: Path) -> None:
    certificate = certificates.Certificate.of(get("bra"), [result("builds", True)])
    certificates.write(tmp_path, certificate.model_copy(update={"suite": certificates.SUITE - 1}))
    assert not certificates.is_valid("bra", folder=tmp_path)
    (tmp_path / "bra.json").write_text("{}")
    assert not certificates.is_valid("bra", folder=tmp_path)


def test_speed_is_shown_where_the_implementation_equalled_eager(tmp_path: Path) -> None:
    places = {"sdpa": {"cpu float32": {"output": 0.4}}, "fused": {"cpu float32": {}, "cuda bfloat16": {}}}
    compared = Result("implementations_equal", True, "", "", 0.1, details={"compared": places})
    certificate = certificates.Certificate.of(get("bra"), [compared])
    assert certificate.implementations["fused"] == ["cpu float32", "cuda bfloat16"]
    certificates.write(tmp_path, certificate)

    def refusal(*asked: str) -> str:
        return certificates.speed_refusal("bra", get("bra").digest(), *asked, folder=tmp_path)

    assert not refusal("sdpa+fused", "cpu", "fp32")
    assert not refusal("fused", "cuda:0", "amp")
    assert not refusal("eager", "cuda", "amp")
    assert "'attnbench check bra'" in refusal("sdpa+fused", "cuda", "amp")
    assert refusal("sdpa+fused", "cuda", "amp").startswith(
        "sdpa not known to equal eager on cuda in bfloat16"
    )
    assert "attnbench check bra --impl compiled'" in refusal("compiled", "cpu", "fp32")
    assert "sdpa" in certificates.speed_refusal("bra", "another", "sdpa", "cpu", "fp32", folder=tmp_path)


@pytest.mark.parametrize(
    ("change", "status"), [({}, "passed"), ({"passed": False}, "failed"), ({"digest": "older"}, "outdated")]
)
def test_status(change: dict[str, object], status: str) -> None:
    certificate = certificates.Certificate.of(get("bra"), [result("builds", True)])
    certificates.write(certificates.SHIPPED, certificate.model_copy(update=change))
    assert certificates.status(get("bra")) == status
    assert certificates.status(get("full")) == ""


def test_a_folder_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AttnbenchError, match="cannot write"):
        certificates.write(tmp_path / "file", certificates.Certificate.of(get("bra"), []))


def attnbench(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "attnbench", "check", *arguments]
    return subprocess.run(command, cwd=cwd, env={**os.environ}, capture_output=True, text=True, check=False)


def test_command_prints_a_list_and_writes_a_certificate(tmp_path: Path) -> None:
    (tmp_path / "doubled.py").write_text(PLUGIN)
    run = attnbench("identity", "doubled.py", cwd=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "2 of 2 mechanisms passed" in run.stdout
    assert "measured static" in run.stdout
    for name in ("identity", "doubled"):
        written = json.loads((tmp_path / "attnbench-results/certificates" / f"{name}.json").read_text())
        assert written["passed"] is True
        assert len(written["results"]) > 30


def test_command_fails_with_a_reason_and_a_way_to_reproduce(tmp_path: Path) -> None:
    (tmp_path / "doubled.py").write_text(
        PLUGIN.replace("torch.eye", "~torch.eye").replace("return 0", "return 1")
    )
    run = attnbench("doubled.py", "--out", "out", cwd=tmp_path)
    assert run.returncode == 1
    lines = run.stdout.splitlines()
    assert sum("FAILED" in line for line in lines) == 2
    assert any("declared 1, found 0" in line for line in lines)
    (command,) = (line for line in lines if "reproduce" in line and "--only support" in line)
    assert json.loads((tmp_path / "out/certificates/doubled.json").read_text())["passed"] is False
    again = attnbench(*command.partition("attnbench check ")[2].partition("  #")[0].split(), cwd=tmp_path)
    assert again.returncode == 1
    assert "1 failed" in again.stdout
    assert not (tmp_path / "attnbench-results/certificates").exists()


MISTAKES = {
    "name": (["bro"], "unknown mechanism 'bro'; did you mean bra"),
    "file": (["nowhere.py"], "is not a Python file"),
    "broken file": (["broken.py"], "broken.py cannot be used: ModuleNotFoundError"),
    "check": (["identity", "--only", "suport"], "unknown check 'suport'; did you mean support"),
    "nothing": ([], "give the name of a mechanism, a FILE.py, or --all"),
    "unwritable": (["identity", "--out", "broken.py"], "cannot write broken.py"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_one_clear_line_and_status_2(tmp_path: Path, mistake: str) -> None:
    (tmp_path / "broken.py").write_text("import no_such_package\n")
    arguments, message = MISTAKES[mistake]
    run = attnbench(*arguments, cwd=tmp_path)
    assert run.returncode == 2, run.stdout + run.stderr
    (line,) = run.stderr.splitlines()
    assert line.startswith("attnbench: error: ")
    assert message in line


@pytest.mark.parametrize("records", ["out/records", "out/records/machine.jsonl"])
def test_certificates_lie_beside_the_records_wherever_the_command_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, records: str
) -> None:
    passed = certificates.Certificate.of(get("bra"), [result("builds", True)])
    certificates.write(tmp_path / "out" / "certificates", passed)
    monkeypatch.chdir(tmp_path)
    assert not certificates.is_valid("bra")
    certificates.look_beside(Path(records))
    monkeypatch.chdir("/")
    assert certificates.is_valid("bra")


def test_a_certificate_is_of_the_options_it_was_checked_with(tmp_path: Path) -> None:
    spec = get("neighborhood")
    compared = {"natten": {"cpu float32 infer": {"output": 0.5}}}
    result = Result("implementations_equal", True, "", "", 0.0, details={"compared": compared})
    options = {"position_bias": False, "kernel_size": 7}  # 7 is the mechanism's own
    path = certificates.write(tmp_path, certificates.Certificate.of(spec, [result], options))
    assert path.name.startswith("neighborhood-with-")
    assert certificates.Certificate.model_validate_json(path.read_bytes()).options == {"position_bias": False}

    def refusal(**how: Any) -> str:
        where = (spec.name, spec.digest(), "natten", "cpu", "fp32", tmp_path)
        return certificates.speed_refusal(*where, **{"mode": "infer", "options": options, **how})

    assert not refusal()
    assert not refusal(options={"position_bias": False})
    assert "attnbench check neighborhood'" in refusal(options={})
    assert "--set kernel_size=5 --set position_bias=false" in refusal(options={**options, "kernel_size": 5})
    assert refusal(mode="train")  # it was compared without gradients
    assert certificates.identifier(spec.name, spec.digest(), tmp_path, options) != "none"
