"""Every shipped mechanism equals the golden tensors of its official implementation, and nothing else does."""

import copy
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from attnbench import AttnbenchError, get, names
from attnbench.harness.conformance import command
from attnbench.harness.conformance.goldens import (
    TOLERANCE,
    Outcome,
    check_case,
    check_folder,
    load_cases,
    rename,
)
from attnbench.harness.conformance.goldens import error as relative_error

FOLDER = Path(__file__).parents[2] / "golden"
OWNERS = {golden: name for name in names() for golden in get(name).facts.goldens}


@pytest.mark.parametrize("case", load_cases(FOLDER), ids=lambda case: Path(case["file"]).stem)
def test_equal_to_the_official_implementation(case: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    if case["mechanism"] != "swin_window" or "shift2" not in case["file"]:  # one compilation is enough here
        monkeypatch.setattr(torch, "compile", _refuse)
    outcome = check_case(FOLDER, case, OWNERS.get(case["mechanism"]))
    assert outcome.equal, str(outcome)
    keys = load_file(FOLDER / case["file"])
    compared = sum(key.startswith(("param.", "aux.")) for key in keys) + 2
    assert len(outcome.errors) == (compared if case["has_gradients"] else 1)
    ran = {comparison.impl for comparison in outcome.comparisons}
    declared = set(get(OWNERS[case["mechanism"]]).facts.impls)
    assert ran <= declared
    assert declared - ran <= {"natten", "xformers", "flex", "eager"}, f"{declared - ran} did not run"


def _refuse(*_: Any, **__: Any) -> Any:
    from attnbench import ImplementationError

    raise ImplementationError("not compiled in this test")


def test_every_declared_golden_has_a_case() -> None:
    assert {case["mechanism"] for case in load_cases(FOLDER)} == set(OWNERS)


def test_goldens_stay_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 9_000_000


Damage = Callable[[dict[str, Any], dict[str, torch.Tensor]], object]


def _largest_plus(tensor: str) -> Damage:
    def damage(case: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        tensors[tensor].view(-1)[0] += 10 * TOLERANCE["float64"] * tensors[tensor].abs().max()

    return damage


def _set(tensor: str, value: float) -> Damage:
    return lambda case, tensors: tensors[tensor].fill_(value)


def _drop(*start: str) -> Damage:
    def damage(case: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.startswith(start)]:
            del tensors[name]

    return damage


def _entry(**fields: Any) -> Damage:
    return lambda case, tensors: case.update(fields)


def _kwarg(**options: Any) -> Damage:
    return lambda case, tensors: case["kwargs"].update(options)


def _add(name: str) -> Damage:
    def damage(case: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        tensors[name] = torch.ones(3)

    return damage


def _both(*damages: Damage) -> Damage:
    def damage(case: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        for one in damages:
            one(case, tensors)

    return damage


BRA = "bra_legacy__sq14_w7_k4"
DAMAGES: dict[str, tuple[str, Damage, str]] = {
    "output changed": ("full_attention__lepe7_nchw", _largest_plus("output"), "DIFFERENT in output"),
    "input's gradient changed": (BRA, _largest_plus("grad.input"), "DIFFERENT in grad.input"),
    "a gradient changed": (BRA, _largest_plus("grad.param.wo.weight"), "DIFFERENT in grad.param.wo.weight"),
    "a gradient negated": (
        "uniformer_local__rect3x4",
        lambda case, tensors: tensors["grad.param.attn.weight"].neg_(),
        "DIFFERENT in grad.param.attn.weight",
    ),
    "all gradients dropped": (BRA, _drop("grad."), "grad.input is missing"),
    "one gradient dropped": (BRA, _drop("grad.param.lepe.bias"), "grad.param.lepe.bias is missing"),
    "gradients disowned": (BRA, _entry(has_gradients=False), "though 'has_gradients' is false"),
    "a gradient excused": (BRA, _entry(params_without_grad=["wo.bias"]), "grad.param.wo.bias is there"),
    "a gradient excused and dropped": (
        BRA,
        _both(_entry(params_without_grad=["wo.bias"]), _drop("grad.param.wo.bias")),
        "grad.param.wo.bias is not zero",
    ),
    "an unknown parameter excused": (BRA, _entry(params_without_grad=["nobody"]), "param.nobody is said"),
    "cotangent dropped": (BRA, _drop("cotangent"), "cotangent is missing"),
    "nothing asked for": (BRA, _set("cotangent", 0.0), "cotangent is all zero"),
    "unknown option": (BRA, _kwarg(temperature=2), "does not know the official option temperature"),
    "option of another value": (BRA, _kwarg(soft_routing=True), "soft_routing"),
    "own scale": (BRA, _kwarg(qk_scale=0.5), "qk_scale"),
    "dropout": ("full_attention__lepe7_nchw", _kwarg(attn_drop=0.1), "attn_drop"),
    "unknown tensor": (BRA, _add("weights"), "nothing compares it"),
    "unknown gradient": (BRA, _add("grad.output"), "nothing compares it"),
    "unknown auxiliary": (BRA, _add("aux.attention"), "aux.attention: nothing compares it"),
    "auxiliary of a mechanism that has none": (
        "full_attention__lepe7_nchw",
        _add("aux.pos"),
        "nothing compares",
    ),
    "unknown parameter": (BRA, _add("param.wo.gain"), "grad.param.wo.gain is missing"),
    "unknown buffer": (BRA, _add("buffer.mean"), "the module lacks"),
    "buffer dropped": ("wavevit_wave__sr2_sq12", _drop("buffer.filter.1.running_var"), "not in the golden"),
    "parameter dropped": (
        BRA,
        _drop("param.lepe.bias", "grad.param.lepe.bias"),
        "not in the golden: lepe.bias",
    ),
    "routes zeroed": (BRA, _set("aux.routed_regions", 0), "DIFFERENT in aux.routed_regions"),
    "points zeroed": ("dat_v1__sq14_g2_s1_orf2_k5", _set("aux.pos", 0.0), "DIFFERENT in aux.pos"),
    "not finite": (BRA, _set("output", float("nan")), "not finite"),
    "other input shape": (BRA, _entry(input_shape=[2, 14, 14, 64]), "input has the shape"),
    "odd input shape": (BRA, _entry(input_shape=[2, 14]), "four positive numbers"),
    "unknown dtype": (BRA, _entry(compute_dtype="float16"), "compute_dtype"),
    "no options": (BRA, lambda case, tensors: case.pop("kwargs"), "'kwargs' must be of type dict"),
    "gradients in words": (BRA, _entry(has_gradients="yes"), "'has_gradients' must be of type bool"),
    "outside": (BRA, _entry(file="../x.safetensors"), "outside of the folder"),
    "a list that names more": (
        BRA,
        _entry(tensors={"input": ["float32", [2, 14, 14, 32]]}),
        "not in the manifest",
    ),
    "one point on an axis": ("dat_pp__sq14_g2_s2_clamp_rpe", _kwarg(stride=14), "divides by zero"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_each_kind_of_damage_is_rejected(name: str, tmp_path: Path) -> None:
    stem, damage, reason = DAMAGES[name]
    outcome = _damaged(stem, damage, tmp_path)
    assert not outcome.equal
    assert reason in str(outcome)


def test_an_undamaged_copy_is_equal(tmp_path: Path) -> None:
    assert _damaged(BRA, lambda case, tensors: None, tmp_path).equal


def test_a_list_of_tensors_must_hold_both_ways(tmp_path: Path) -> None:
    def complete(case: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        short = {name: str(value.dtype).removeprefix("torch.") for name, value in tensors.items()}
        case["tensors"] = {name: [dtype, list(tensors[name].shape)] for name, dtype in short.items()}

    assert _damaged(BRA, complete, tmp_path).equal
    lacking = _damaged(BRA, _both(complete, _drop("aux.")), tmp_path)
    assert "aux.routed_regions is in the manifest and not in the file" in lacking.reason


def _damaged(stem: str, damage: Damage, folder: Path) -> Outcome:
    """A case whose file and entry were changed, and whose sha256 says nothing of it."""
    case = copy.deepcopy(next(c for c in load_cases(FOLDER) if Path(c["file"]).stem == stem))
    name, tensors = case["file"], load_file(FOLDER / case["file"])
    damage(case, tensors)
    save_file(tensors, folder / name)
    case["sha256"] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    return check_case(folder, case, OWNERS[case["mechanism"]])


def test_another_file_of_the_same_name_is_noticed(tmp_path: Path) -> None:
    case = next(c for c in load_cases(FOLDER) if BRA in c["file"])
    tensors = load_file(FOLDER / case["file"])
    save_file(tensors, tmp_path / case["file"], metadata={"made": "again"})
    assert "sha256" in check_case(tmp_path, case, "bra").reason


def test_a_case_nobody_claims_is_reported(tmp_path: Path) -> None:
    case = {**load_cases(FOLDER)[0], "mechanism": "unheard_of"}
    shutil.copy(FOLDER / case["file"], tmp_path)
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


def test_a_file_that_no_entry_names_fails_the_folder(tmp_path: Path) -> None:
    case = next(c for c in load_cases(FOLDER) if c["mechanism"] == "full_attention")
    (tmp_path / "MANIFEST.json").write_text(json.dumps({"entries": [case]}))
    shutil.copy(FOLDER / case["file"], tmp_path)
    lines: list[str] = []
    assert command.golden(tmp_path, [], lines.append)
    assert lines[-1].startswith("1 of 1 equal, in 2 comparisons (eager 1, sdpa 1")
    shutil.copy(FOLDER / case["file"], tmp_path / "another.safetensors")
    assert not command.golden(tmp_path, [], lines.append)
    assert (
        lines[-2].endswith("another.safetensors: no entry of the manifest names it") or "another" in lines[-3]
    )


@pytest.mark.parametrize("text", ["[]", "{}", '{"entries": 3}', '{"entries": [3]}', "not json"])
def test_no_manifest_is_an_error(text: str, tmp_path: Path) -> None:
    with pytest.raises(AttnbenchError, match="MANIFEST"):
        load_cases(tmp_path)
    (tmp_path / "MANIFEST.json").write_text(text)
    with pytest.raises(AttnbenchError, match="MANIFEST"):
        load_cases(tmp_path)


def test_every_implementation_is_held_to_its_own_tolerance(monkeypatch: pytest.MonkeyPatch) -> None:
    from attnbench.mechanisms import _attend

    case = next(c for c in load_cases(FOLDER) if c["mechanism"] == "full_attention")
    true = _attend.F.scaled_dot_product_attention

    def slightly_wrong(*args: Any, **kwargs: Any) -> torch.Tensor:
        return true(*args, **kwargs) * (1 + 1e-8)

    monkeypatch.setattr(_attend.F, "scaled_dot_product_attention", slightly_wrong)
    outcome = check_case(FOLDER, case, "full")
    verdicts = {comparison.impl: comparison.equal for comparison in outcome.comparisons}
    assert verdicts["eager"]
    assert not verdicts["sdpa"]
    assert not outcome.equal
    assert "sdpa DIFFERENT" in str(outcome)


def test_longest_prefix_is_renamed() -> None:
    prefixes = {"attn.": "", "attn.table": "bias_table"}
    assert rename("attn.table", prefixes) == "bias_table"
    assert rename("attn.qkv.weight", prefixes) == "qkv.weight"
    assert rename("proj.bias", prefixes) == "proj.bias"


def test_what_is_missing_or_not_finite_is_infinitely_wrong() -> None:
    whole = torch.ones(2, 3)
    assert relative_error(None, whole, 0.0) == float("inf")
    assert relative_error(torch.ones(5), whole, 0.0) == float("inf")
    assert relative_error(torch.full((2, 3), torch.nan), whole, 0.0) == float("inf")
    assert relative_error(whole + 0.5, whole, 0.0) == 0.5
