"""Every shipped mechanism equals the golden tensors of its official implementation."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from attnbench import AttnbenchError, get, names
from attnbench.harness.conformance.goldens import TOLERANCE, check_case, check_folder, load_cases, rename

FOLDER = Path(__file__).parents[2] / "golden"
OWNERS = {golden: name for name in names() for golden in get(name).facts.goldens}


@pytest.mark.parametrize("case", load_cases(FOLDER), ids=lambda case: Path(case["file"]).stem)
def test_equal_to_the_official_implementation(case: dict) -> None:
    outcome = check_case(FOLDER, case, OWNERS.get(case["mechanism"]))
    assert outcome.equal, str(outcome)
    compared = sum(key.startswith("param.") for key in load_file(FOLDER / case["file"])) + 2
    assert len(outcome.errors) == (compared if case["has_gradients"] else 1)


def test_every_declared_golden_has_a_case() -> None:
    assert {case["mechanism"] for case in load_cases(FOLDER)} == set(OWNERS)


def test_goldens_stay_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 6_000_000


@pytest.mark.parametrize("tensor", ["output", "grad.input", "grad.param.qkv.weight"])
def test_a_changed_golden_is_noticed(tensor: str, tmp_path: Path) -> None:
    case = next(c for c in load_cases(FOLDER) if c["mechanism"] == "full_attention")
    tensors = load_file(FOLDER / case["file"])
    tensors[tensor].view(-1)[0] += 10 * TOLERANCE["float64"] * tensors[tensor].abs().max()
    save_file(tensors, tmp_path / case["file"])
    outcome = check_case(tmp_path, case, "full")
    assert not outcome.equal
    assert "DIFFERENT" in str(outcome)
    assert tensor in str(outcome)


def test_a_tensor_that_is_not_finite_is_not_equal(tmp_path: Path) -> None:
    case = next(c for c in load_cases(FOLDER) if c["mechanism"] == "full_attention")
    tensors = load_file(FOLDER / case["file"])
    tensors["output"].view(-1)[0] = torch.nan
    save_file(tensors, tmp_path / case["file"])
    assert not check_case(tmp_path, case, "full").equal


def test_a_case_nobody_claims_is_reported(tmp_path: Path) -> None:
    case = {**load_cases(FOLDER)[0], "mechanism": "unheard_of"}
    (tmp_path / "MANIFEST.json").write_text(json.dumps({"entries": [case]}))
    (outcome,) = check_folder(tmp_path)
    assert "unheard_of" in outcome.reason


def test_a_missing_file_is_reported_and_the_rest_is_compared(tmp_path: Path) -> None:
    cases = [c for c in load_cases(FOLDER) if c["mechanism"] == "full_attention"]
    (tmp_path / "MANIFEST.json").write_text(json.dumps({"entries": cases}))
    for case in cases[1:]:
        shutil.copy(FOLDER / case["file"], tmp_path)
    first, *rest = check_folder(tmp_path)
    assert first.reason
    assert all(outcome.equal for outcome in rest)


def test_no_manifest_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AttnbenchError, match="MANIFEST"):
        load_cases(tmp_path)


def test_longest_prefix_is_renamed() -> None:
    prefixes = {"attn.": "", "attn.table": "bias_table"}
    assert rename("attn.table", prefixes) == "bias_table"
    assert rename("attn.qkv.weight", prefixes) == "qkv.weight"
    assert rename("proj.bias", prefixes) == "proj.bias"
