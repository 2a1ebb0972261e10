"""Record folders of several machines, joined into one: all of them, or nothing. Needs no torch.

Before a line is written every record is examined: that its line is as it was written, that its key is its
cell's, that its value is that of its samples, and that the source and the certificate it names are what it
claims. A record that is not is refused with its place and the reason, and then nothing is written.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from attnbench import seals, store
from attnbench.errors import AttnbenchError
from attnbench.record import SCHEMA, Measurement
from attnbench.vouching import Vouchers

Identity = tuple[str, str]


@dataclass(frozen=True)
class Found:
    """One record, where it stands (folder, file in it, line), and its line as it is."""

    root: Path
    path: Path
    line: int
    record: Measurement
    text: str

    @property
    def place(self) -> str:
        """File and line, as an editor takes them."""
        return f"{self.root / self.path}:{self.line}"

    @property
    def identity(self) -> Identity:
        """What two records of the same thing have in common: the key of the cell and the value's name."""
        return self.record.key, self.record.name


@dataclass
class Merged:
    """What a merge did, or would have done.

    ``refused`` holds a line per record that is not what it claims; if there is one, nothing was written.
    """

    records: int = 0
    files: list[Path] = field(default_factory=list)
    duplicates: int = 0
    unsealed: int = 0
    conflicts: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def merge(folders: Sequence[Path], out: Path, *, outdated: bool = False) -> Merged:
    """Join record folders into ``out/records``, one file per machine, with the certificates beside them.

    Of several records of one cell the newest is kept, as tables would show it. Those that say the same are
    duplicates and counted; those that do not are conflicts and told.

    Args:
        folders: each an output folder of ``attnbench run`` or its ``records``.
        out: a folder that does not exist or is empty.
        outdated: accept records of sources that are not at hand, such as those of an older version.

    Raises:
        AttnbenchError: a folder holds no records, or ``out`` is not empty or cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise AttnbenchError(f"--out {out} must be a folder that is empty or does not exist; name another")
    roots = [_root(folder) for folder in folders]
    vouchers = Vouchers([root / "certificates" for root in roots])
    result = Merged()
    found = [f for root in roots for f in _examined(root, vouchers, outdated, result)]
    if result.refused:
        return result
    kept = _newest(found, result)
    _write(out, kept, vouchers, result)
    return result


def _root(folder: Path) -> Path:
    """The output folder meant by its own path or by that of its ``records``."""
    root = folder.parent if folder.name == "records" else folder
    if not any((root / "records").rglob("*.jsonl")):
        raise AttnbenchError(f"no records below {root / 'records'}; give the --out DIR of 'attnbench run'")
    return root


def _examined(root: Path, vouchers: Vouchers, outdated: bool, result: Merged) -> Iterable[Found]:
    """The records of a folder that are what they claim; the others go to ``result.refused``."""
    for path in sorted((root / "records").rglob("*.jsonl")):
        for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
            if not line.strip():
                continue
            try:
                content = _content(line)
                record = Measurement.model_validate({k: v for k, v in content.items() if k != seals.SEAL})
                _examine(content, record)
                vouchers.examine(record, outdated=outdated)
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(map(str, first["loc"])) or "the line"
                result.refused.append(f"{path}:{number}: not a record ({where}: {first['msg']})")
            except AttnbenchError as error:
                result.refused.append(f"{path}:{number}: {error}")
            else:
                result.unsealed += seals.SEAL not in content
                yield Found(root, path.relative_to(root), number, record, line.decode())


def _content(line: bytes) -> dict[str, Any]:
    try:
        content = from_json(line)
    except ValueError as error:
        raise AttnbenchError(f"not JSON ({error})") from error
    if not isinstance(content, dict):
        raise AttnbenchError("not a record: a line must be one JSON object")
    version = content.get("schema_version", SCHEMA)
    if isinstance(version, int) and version > SCHEMA:
        raise AttnbenchError(f"schema {version} is newer than this attnbench knows ({SCHEMA}); upgrade it")
    return content


def _examine(content: dict[str, Any], record: Measurement) -> None:
    """Raise AttnbenchError where a record contradicts itself."""
    name = f"{record.cell} {record.name}".strip()
    if record.key not in record.cell.stored_as():
        raise AttnbenchError(
            f"{name}: its key is {record.key}, that of its cell {record.cell.key()}: a condition was changed"
        )
    if seals.SEAL not in content and record.schema_version >= seals.SINCE:
        raise AttnbenchError(
            f"{name}: it has no seal, as records of its schema do: it was changed or made by hand"
        )
    if seals.is_broken(content):
        raise AttnbenchError(
            f"{name}: its seal is {content[seals.SEAL]}, that of what it says {seals.seal(content)}: "
            "the line was changed after it was written"
        )
    if record.status == "ok" and record.value is None:
        raise AttnbenchError(f"{name}: its status is ok, but it has no value")


def _newest(found: Sequence[Found], result: Merged) -> list[Found]:
    """The newest record of each identity, in order of time; what else there was is counted or told."""
    kept: dict[Identity, Found] = {}
    for one in sorted(found, key=lambda f: f.record.created):
        before = kept.get(one.identity)
        kept[one.identity] = one
        if before is None:
            continue
        if _says(before.record) == _says(one.record):
            result.duplicates += 1
        else:
            result.conflicts.append(
                f"{one.record.cell} {one.record.name} (key {one.record.key}): {before.place} says "
                f"{_value(before.record)}, {one.place} says {_value(one.record)}; the newer is kept"
            )
    return sorted(kept.values(), key=lambda f: f.record.created)


def _says(record: Measurement) -> tuple[Any, ...]:
    return record.value, record.unit, record.status, record.samples


def _value(record: Measurement) -> str:
    return f"{record.value} {record.unit}" if record.status == "ok" else f"{record.status}: {record.reason}"


def _write(out: Path, kept: Sequence[Found], vouchers: Vouchers, result: Merged) -> None:
    """Write records under the names of the files that they are from, and the certificates they name."""
    files: dict[Path, list[str]] = {}
    for one in kept:
        files.setdefault(out / one.path, []).append(one.text)
    for path, lines in files.items():
        store.append_lines(path, lines)
    vouchers.copy_to(out / "certificates", {one.record.certificate for one in kept})
    result.records, result.files = len(kept), list(files)


def report(result: Merged, out: Path, say: Callable[[str], None]) -> None:
    """Tell what a merge did, a line each."""
    for conflict in result.conflicts:
        say(f"conflict: {conflict}")
    if result.unsealed:
        say(
            f"{result.unsealed} records are from before there were seals: that their values are as they were "
            "measured cannot be told"
        )
    same = f", {result.duplicates} duplicates left out" if result.duplicates else ""
    told = f", {len(result.conflicts)} conflicts" if result.conflicts else ""
    say(f"{result.records} records of {len(result.files)} files in {out / 'records'}{same}{told}")
