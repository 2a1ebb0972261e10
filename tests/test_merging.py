"""Record folders are joined whole, or refused with place and reason and nothing written."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attnbench import AttnbenchError, certificates, get, merging, store
from attnbench.harness.conformance.checks import Result
from attnbench.layouts import get_layout
from attnbench.record import Cell, Measurement

CERTIFICATE = certificates.Certificate.of(get("full"), [Result("builds", True, "", "", 0.1)])


def identifier(folder: Path) -> str:
    certificates.write(folder / "certificates", CERTIFICATE)
    return certificates.identifier("full", get("full").digest(), folder / "certificates")


def measurement(machine: str, value: float, when: int = 1, **fields: Any) -> Measurement:
    cell = Cell(
        mechanism=fields.pop("mechanism", "full"),
        layout="swin_pico",
        metric="memory",
        mode="infer",
        precision="fp32",
        resolution=28,
        machine=machine,
        source=fields.pop("source", get("full").digest()),
        layout_digest=fields.pop("layout_digest", get_layout("swin_pico").digest()),
    )
    created = f"2026-01-01T00:00:{when:02}+00:00"
    return Measurement.of(cell, "peak_memory", value, "bytes", created=created, **fields)


def folder(path: Path, machine: str, value: float = 1.0, when: int = 1) -> Path:
    """Records of one machine, one of them with a certificate, which lies beside them."""
    certificate = identifier(path)
    found = [measurement(machine, value, when, certificate=certificate)]
    other = measurement(machine, value, when, mechanism="bra", source=get("bra").digest(), certificate="none")
    store.append(path / "records" / f"{machine}.jsonl", [*found, other])
    return path


@pytest.fixture(autouse=True)
def none_of_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(certificates, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setattr(certificates, "OWN", tmp_path / "own")


def test_two_machines_become_one_folder_that_can_be_merged_again(tmp_path: Path) -> None:
    a, b, out = folder(tmp_path / "a", "one"), folder(tmp_path / "b", "two", 2.0), tmp_path / "out"
    result = merging.merge([a, b / "records"], out)
    assert (result.records, result.duplicates, result.conflicts, result.refused) == (4, 0, [], [])
    for machine, source in (("one", a), ("two", b)):
        name = f"records/{machine}.jsonl"
        assert (out / name).read_bytes() == (source / name).read_bytes()
    assert (out / "certificates" / "full.json").is_file()
    again = merging.merge([out, a], tmp_path / "again")
    assert (again.records, again.duplicates, again.refused) == (4, 2, [])


def test_a_conflict_is_told_with_both_places_and_the_newer_kept(tmp_path: Path) -> None:
    a, b, out = (
        folder(tmp_path / "a", "one", 1.0, when=2),
        folder(tmp_path / "b", "one", 3.0),
        tmp_path / "out",
    )
    result = merging.merge([a, b], out)
    assert result.records == 2
    assert len(result.conflicts) == 2
    assert f"{b}/records/one.jsonl:1 says 3.0 bytes" in result.conflicts[0]
    assert f"{a}/records/one.jsonl:1 says 1.0 bytes; the newer is kept" in result.conflicts[0]
    assert {m.value for m in store.read(out / "records", pytest.fail)} == {1.0}


def rewrite(path: Path, change: Callable[[dict[str, Any]], None], sealed: bool = False) -> None:
    """Alter the first record of a file by hand, or by someone who seals it again."""
    from attnbench import seals

    first, *rest = path.read_text().splitlines()
    content = json.loads(first)
    change(content)
    if sealed:
        content = seals.sealed(content)
    path.write_text("\n".join([json.dumps(content), *rest]) + "\n")


def put(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content.update(values)


def put_in_cell(**values: Any) -> Callable[[dict[str, Any]], None]:
    """Change the cell, and the key with it."""

    def change(content: dict[str, Any]) -> None:
        content["cell"].update(values)
        content["key"] = Cell(**content["cell"]).key()

    return change


@pytest.mark.parametrize(
    ("change", "sealed", "reason"),
    [
        (put(value=0.5), False, "its seal is .*: the line was changed after it was written"),
        (lambda c: c["cell"].update(batch_size=64), True, "its key is .*: a condition was changed"),
        (put(key="0" * 16), True, "its key is 0{16}, that of its cell"),
        (put(value=None), True, "its status is ok, but it has no value"),
        (put(certificate="f" * 16), True, "names certificate f{16}, which is neither beside the records"),
        (put_in_cell(source="e" * 16), True, "certificate it names is of full with source .*, the record of"),
        (put_in_cell(mechanism="bra"), True, "the certificate it names is of full"),
        (put(certificate="none", schema_version="two"), True, "not a record .schema_version"),
        (put(schema_version=99), True, "schema 99 is newer"),
    ],
)
def test_an_altered_record_is_named_with_the_reason_and_nothing_written(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], sealed: bool, reason: str
) -> None:
    a, b, out = folder(tmp_path / "a", "one"), folder(tmp_path / "b", "two"), tmp_path / "out"
    rewrite(b / "records" / "two.jsonl", change, sealed)
    refused = merging.merge([a, b], out).refused
    assert len(refused) == 1
    assert refused[0].startswith(f"{b}/records/two.jsonl:1: ")
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(refused[0])
    assert not out.exists()


def uncertified(path: Path, **fields: Any) -> Path:
    store.append(path / "records" / "m.jsonl", [measurement("m", 1.0, certificate="none", **fields)])
    return path


def test_a_source_that_nothing_vouches_for_is_refused_unless_asked_for(tmp_path: Path) -> None:
    for number, (fields, reason) in enumerate(
        [
            ({"source": "a" * 16}, "its source has digest a{16}, the mechanism here has"),
            ({"mechanism": "nonesuch"}, "no such mechanism here and no certificate of it"),
            ({"layout_digest": "b" * 16}, "its layout swin_pico has digest b{16}"),
        ]
    ):
        path = uncertified(tmp_path / str(number), **fields)
        (refusal,) = merging.merge([path], tmp_path / "out").refused
        with pytest.raises(AssertionError, match=reason):
            raise AssertionError(refusal)
        assert merging.merge([path], tmp_path / f"out{number}", outdated=True).records == 1


def test_a_failed_certificate_vouches_for_no_claim(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", "one")
    failed = CERTIFICATE.model_copy(update={"passed": False})
    certificates.write(path / "certificates", failed)
    (refusal,) = merging.merge([path], tmp_path / "out").refused
    assert "neither beside the records" in refusal, "an edited certificate is another certificate"


def test_certificates_made_anew_without_the_records_are_told_from_lost_ones(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", "one")
    anew = CERTIFICATE.model_copy(update={"created": "2031-01-01T00:00:00+00:00"})
    certificates.write(path / "certificates", anew)
    (refusal,) = merging.merge([path], tmp_path / "out").refused
    assert "records were not: --outdated accepts" in refusal
    assert merging.merge([path], tmp_path / "out", outdated=True).records == 2
    shutil.rmtree(path / "certificates")
    (refusal,) = merging.merge([path], tmp_path / "other").refused
    assert "made anew" not in refusal


def test_a_baseline_is_of_the_library_that_ran(tmp_path: Path) -> None:
    cell = Cell(mechanism="timm_swin", layout="swin_t", metric="params", resolution=224, source="timm 1.0.30")
    for version, refused in (("1.0.30", 0), ("1.0.31", 1)):
        path, environment = tmp_path / version, {"libraries": {"timm": version}}
        record = Measurement.of(cell, "parameters", 1, "parameters", environment=environment)
        store.append(path / "records" / "m.jsonl", [record])
        assert len(merging.merge([path], tmp_path / f"out {version}").refused) == refused


def test_out_must_be_new_and_folders_must_hold_records(tmp_path: Path) -> None:
    a = folder(tmp_path / "a", "one")
    with pytest.raises(AttnbenchError, match="must be a folder that is empty or does not exist"):
        merging.merge([a], a)
    with pytest.raises(AttnbenchError, match="no records below"):
        merging.merge([a, tmp_path / "b"], tmp_path / "out")


def test_the_command_refuses_with_status_1_and_writes_nothing(tmp_path: Path) -> None:
    for name in ("a", "b"):
        record = measurement(name, 1.0, certificate="none")
        store.append(tmp_path / name / "records" / f"{name}.jsonl", [record])
    rewrite(tmp_path / "b" / "records" / "b.jsonl", put(value=0.5))
    command = [sys.executable, "-m", "attnbench", "merge", "a", "b", "--out", "joined"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "refused: b/records/b.jsonl:1: full memory infer fp32 peak_memory: its seal is" in done.stderr
    assert "nothing was written: 1 records are not what they claim" in done.stderr
    assert not (tmp_path / "joined").exists()
