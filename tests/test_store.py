"""Records on disk survive cuts, kills, foreign lines, newer schemas, full disks."""

import ast
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from attnbench import AttnbenchError, store, tables
from attnbench.record import SCHEMA, Cell, Measurement
from attnbench.tables import render


def measurement(value: int = 1, mechanism: str = "full") -> Measurement:
    cell = Cell(mechanism=mechanism, layout="swin_t", metric="params", resolution=224)
    return Measurement.of(cell, "parameters", value, "parameters")


def read(path: Path) -> tuple[list[Measurement], list[str]]:
    warnings: list[str] = []
    return store.read(path, warnings.append), warnings


def test_round_trip(tmp_path: Path) -> None:
    written = [measurement(1), measurement(2, "bra")]
    store.append(tmp_path / "deep" / "a.jsonl", written)
    assert read(tmp_path) == (written, [])


def test_key_depends_on_every_field() -> None:
    cell = measurement().cell
    other = {"mechanism": "bra", "layout": "x", "metric": "macs", "mode": "train", "precision": "amp"}
    other |= {"resolution": 1, "batch_size": 9, "impl": "sdpa", "seed": 3, "preset": "full"}
    other |= {"options": {"topk": 1}}
    other |= {"device": "cuda", "machine": "m", "source": "s", "torch": "3"}
    other |= {"layout_digest": "d", "recipe": "r", "regime": "latency"}
    other |= {"dataset": "d", "dataset_digest": "e"}
    assert set(other) == set(Cell.model_fields)
    keys = {cell.model_copy(update={field: value}).key() for field, value in other.items()}
    assert len(keys | {cell.key()}) == len(other) + 1


def test_cut_last_line_is_kept_reported_and_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    store.append(path, [measurement(1)])
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:40])
    found, warnings = read(path)
    assert [m.value for m in found] == [1]
    assert warnings == [f"{path}:2: skipped: the line is cut short"]
    store.append(path, [measurement(2)])
    assert [m.value for m in read(path)[0]] == [1, 2]
    assert path.read_bytes().startswith(whole + whole[:40] + b"\n")


def test_newer_schema_is_reported_and_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    newer = {"schema_version": SCHEMA + 1, "anything": True}
    path.write_text(measurement().model_dump_json() + "\n" + json.dumps(newer) + "\n")
    found, warnings = read(path)
    assert len(found) == 1
    assert f"schema {SCHEMA + 1} is newer" in warnings[0]


@pytest.mark.parametrize("line", ["[1, 2]", "{}", "nonsense", '{"cell": 3}', '"text"', "7"])
def test_foreign_line_is_reported_and_skipped(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f"{line}\n{measurement().model_dump_json()}\n")
    found, warnings = read(path)
    assert len(found) == len(warnings) == 1


def test_old_records_still_load() -> None:
    found, warnings = read(Path(__file__).parent / "records" / "schema_1.jsonl")
    assert found
    assert not warnings


def test_no_records_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(AttnbenchError, match="run 'attnbench run'"):
        read(tmp_path / "nowhere")


def test_unwritable_folder_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for call in (lambda p: store.append(p / "a.jsonl", [measurement()]), store.check_writable):
        with pytest.raises(AttnbenchError, match="cannot write"):
            call(tmp_path / "file")


FILL = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, {folder!r})
from test_store import measurement
from attnbench import AttnbenchError, store, tables
from attnbench.tables import render
path = Path({path!r})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, -1))
try:
    store.append(path, [measurement(2)])
except AttnbenchError as error:
    sys.exit(str(error))
"""


def test_full_disk_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    store.append(path, [measurement(1)])
    before = path.read_bytes()
    code = FILL.format(folder=str(Path(__file__).parent), path=str(path))
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "cannot write" in result.stderr
    assert path.read_bytes() == before


APPEND = """
import itertools, sys
from pathlib import Path
sys.path.insert(0, {folder!r})
from test_store import measurement
from attnbench import store
for number in itertools.count():
    store.append(Path({path!r}), [measurement(number)])
"""


def test_kill_loses_no_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    code = APPEND.format(folder=str(Path(__file__).parent), path=str(path))
    for _ in range(3):
        before = path.stat().st_size if path.exists() else 0
        writers = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
        while not path.exists() or path.stat().st_size < before + 20_000:
            assert all(writer.poll() is None for writer in writers)
        for writer in writers:
            writer.kill()
            writer.wait()
    found, warnings = read(path)
    assert not warnings
    assert len(found) == path.read_bytes().count(b"\n")


def test_ten_thousand_cells_load_and_render_without_reading_sources_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {f"fact {number}": {"name": "value", "list": [1, 2]} for number in range(20)}
    lines = []
    for number in range(10_000):
        options = {"topk": number // 4}
        mode, precision = ("infer", "train")[number % 2], ("fp32", "amp")[number // 2 % 2]
        where = {"device": "cpu", "machine": "m", "preset": "quick", "mode": mode, "precision": precision}
        cell = Cell(
            mechanism="bra", layout="swin_t", metric="throughput", resolution=224, options=options, **where
        )
        samples = [10.0 + number % 7 + k for k in range(15)]
        fields = {"samples": samples, "implementation": "eager", "environment": environment}
        record = Measurement.of(cell, "throughput", 17.0, "images/s", **fields)
        lines.append(record.model_dump_json())
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n")
    parsed: list[object] = []
    parse = ast.parse
    monkeypatch.setattr(ast, "parse", lambda *a, **k: parsed.append(a) or parse(*a, **k))
    began = time.process_time()
    found, warnings = read(tmp_path)
    text = render.render(tables.ablation(found), "md")
    print(f"{time.process_time() - began:.2f} s of the processor")
    assert len(found) == 10_000
    assert not warnings
    assert text.count("\n| ") >= 2_500
    assert len(parsed) < 200  # each source once, not once for each row
