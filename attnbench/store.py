"""Records on disk: JSON lines, appended whole, read leniently.

A line is written with one system call and synced, under a lock, so a killed run loses at most what it
was measuring. A cut last line (a full disk, a power cut) is kept, reported and skipped.
"""

import contextlib
import fcntl
import gc
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from attnbench.errors import AttnbenchError
from attnbench.record import SCHEMA, Measurement
from attnbench.seals import SEAL, seal

Model = TypeVar("Model", bound=BaseModel)


def append(path: Path, records: Iterable[BaseModel]) -> None:
    """Append records, all or none, each as one line with its seal (see :mod:`attnbench.seals`).

    Raises:
        AttnbenchError: the folder or file cannot be written; the file is left as it was.
    """
    append_lines(path, map(_line, records))


def append_lines(path: Path, texts: Iterable[str]) -> None:
    """Append lines that are records already, all or none.

    Raises:
        AttnbenchError: as :func:`append`.
    """
    lines = "".join(f"{text}\n" for text in texts).encode()
    if not lines:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            lines = b"\n" + lines  # the last line was cut: leave it, and begin a new one
        try:
            if os.write(descriptor, lines) != len(lines):
                raise OSError("the disk is full")
            os.fsync(descriptor)
        except OSError as error:
            os.ftruncate(descriptor, size)
            raise _unwritable(path, error) from error
    finally:
        os.close(descriptor)


def _line(record: BaseModel) -> str:
    text = record.model_dump_json()
    return f'{text[:-1]},"{SEAL}":"{seal(from_json(text))}"}}'


@contextlib.contextmanager
def only_writer(folder: Path, name: str) -> Iterator[None]:
    """Be the only process that measures into a folder under a name; the lock ends with the process.

    Raises:
        AttnbenchError: another does, or the folder cannot be written.
    """
    path = folder / f".{name}.lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = os.read(descriptor, 32).decode(errors="replace").strip()
            raise AttnbenchError(
                f"process {other} is measuring into {folder} now; wait for it, or give another --out DIR"
            ) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)


def check_writable(folder: Path) -> None:
    """Fail now, not after an hour of measuring.

    Raises:
        AttnbenchError: files cannot be made in ``folder``.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise _unwritable(folder, error) from error


def read(folder: Path, warn: Callable[[str], None]) -> list[Measurement]:
    """All measurements below a folder (or in one file), oldest first; ``warn`` is told of lines skipped.

    Raises:
        AttnbenchError: there is no such folder or file, or it cannot be read.
    """
    if not folder.exists():
        raise AttnbenchError(f"no records at {folder}; run 'attnbench run' or give --records DIR")
    paths = sorted(folder.rglob("*.jsonl")) if folder.is_dir() else [folder]
    for path in [path for path in paths if not path.is_file()]:  # a FIFO would be waited for
        warn(f"{path}: skipped: not a file")
        paths.remove(path)
    found: list[Measurement] = []
    with _collector_paused():
        for path in paths:
            found.extend(read_lines(path, Measurement, warn))
    return sorted(found, key=lambda m: m.created)


def read_lines(path: Path, model: type[Model], warn: Callable[[str], None]) -> Iterator[Model]:
    """Records of one file; a line that is cut, foreign or of a newer schema is reported and skipped."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise AttnbenchError(f"cannot read {path}: {error.strerror}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            content: Any = from_json(line)
            version = content.get("schema_version", SCHEMA) if isinstance(content, dict) else None
            if isinstance(version, int) and version > SCHEMA:
                warn(
                    f"{path}:{number}: skipped: schema {version} is newer than this attnbench knows "
                    f"({SCHEMA}); upgrade attnbench to read it"
                )
                continue
            if isinstance(content, dict):
                content.pop(SEAL, None)  # of the line, not of the record; 'attnbench merge' examines it
            yield model.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the line"
            warn(f"{path}:{number}: skipped: not a record of this kind ({where}: {first['msg']})")
        except ValueError:
            cut = "cut short" if number == len(lines) else "not JSON"
            warn(f"{path}:{number}: skipped: the line is {cut}")


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """No search for garbage: thousands of records are thousands of dictionaries, none of them any."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _unwritable(path: Path, error: OSError) -> AttnbenchError:
    why = error.strerror or str(error)
    return AttnbenchError(f"cannot write {path}: {why}; free some space or give another --out DIR")
