"""Checkpoints of a training run: one safetensors file each, whole or not there, the last two kept.

Tensors are called ``model.…``, ``ema.…`` and ``optimizer.<parameter>.<state>``; counters and all that is no
tensor stand as JSON in the file's metadata, with a checksum of the tensors. Nothing that is read runs code.
A file is written beside its place, synced and renamed, so a kill or a full disk leaves what was there.
"""

import contextlib
import fcntl
import json
import os
import re
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from attnbench.errors import AttnbenchError

FORMAT = "attnbench checkpoint 1"
KEPT = 2
_NAME = re.compile(r"checkpoint-(\d{9})\.safetensors")


@dataclass
class State:
    """What a checkpoint holds: tensors by name, and what is written as JSON."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


class DamagedError(AttnbenchError):
    """A checkpoint that is cut, altered or none of ours; the message says which."""


def capture(model: nn.Module, optimizer: torch.optim.Optimizer, ema: nn.Module | None = None) -> State:
    """Weights, buffers and the optimizer's state, the latter by the names of parameters."""
    state = State({f"model.{name}": tensor for name, tensor in model.state_dict().items()})
    if ema is not None:
        state.tensors |= {f"ema.{name}": tensor for name, tensor in ema.state_dict().items()}
    scalars: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                state.tensors[f"optimizer.{name}.{key}"] = value
            else:
                scalars.setdefault(name, {})[key] = value
    state.facts["optimizer"] = scalars
    return state


def restore(
    state: State, model: nn.Module, optimizer: torch.optim.Optimizer, ema: nn.Module | None = None
) -> None:
    """Put what :func:`capture` took back in place.

    Raises:
        AttnbenchError: the checkpoint is of another model or optimizer.
    """
    _load(model, state, "model.")
    if ema is not None:
        _load(ema, state, "ema.")
    own: dict[str, dict[str, Any]] = {name: dict(of) for name, of in state.facts["optimizer"].items()}
    parameters = dict(model.named_parameters())
    for key, tensor in state.tensors.items():
        if key.startswith("optimizer."):
            name, _, what = key.removeprefix("optimizer.").rpartition(".")
            if name not in parameters:
                raise AttnbenchError(
                    f"the checkpoint's optimizer knows a parameter {name}; the model has none"
                )
            place = parameters[name].device if what != "step" else tensor.device
            own.setdefault(name, {})[what] = tensor.to(place)
    optimizer.state.clear()
    for name, of in own.items():
        optimizer.state[parameters[name]] = of


def _load(module: nn.Module, state: State, prefix: str) -> None:
    part = {n.removeprefix(prefix): t for n, t in state.tensors.items() if n.startswith(prefix)}
    try:
        module.load_state_dict(part)
    except RuntimeError as error:
        lines = str(error).splitlines()
        why = lines[1].strip() if len(lines) > 1 else lines[0]
        raise AttnbenchError(f"the checkpoint is of another model: {why[:300]}") from error


def write(path: Path, state: State) -> None:
    """Write a checkpoint whole or not at all.

    Raises:
        AttnbenchError: there is no room, or the folder cannot be written; what was there is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
    tensors = {
        name: t.clone() if t.untyped_storage().nbytes() != t.nbytes else t for name, t in tensors.items()
    }
    tensors = _unshared(tensors)
    metadata = {"format": FORMAT, "facts": json.dumps(state.facts), "checksum": _checksum(tensors)}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save_file(tensors, temporary, metadata)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync(path.parent)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise AttnbenchError(
            f"cannot write {path}: {error}; free some space and give the same command again: it goes on "
            "from the last checkpoint"
        ) from error


def read(path: Path) -> State:
    """Read a checkpoint, and see that it is whole.

    Raises:
        DamagedError: it is cut, altered, or not a checkpoint of a training run.
        AttnbenchError: there is no such file.
    """
    if not path.is_file():
        raise AttnbenchError(f"there is no checkpoint {path}")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise DamagedError(f"{path} is no whole safetensors file: {error}") from error
    if metadata.get("format") != FORMAT:
        raise DamagedError(
            f"{path} is not a checkpoint of 'attnbench train': {metadata.get('format', 'no format')}"
        )
    if _checksum(tensors) != metadata["checksum"]:
        raise DamagedError(f"{path} is altered: its checksum does not fit its tensors")
    return State(tensors, json.loads(metadata["facts"]))


def peek(folder: Path) -> dict[str, Any] | None:
    """What a run's newest checkpoint says of itself, its tensors unread; ``None`` where none can be read."""
    for path in numbered(folder).values():
        with contextlib.suppress(SafetensorError, OSError, ValueError, KeyError):
            with safe_open(path, "pt") as file:
                found: dict[str, Any] = json.loads((file.metadata() or {})["facts"])
            return found
    return None


def numbered(folder: Path) -> dict[int, Path]:
    """The checkpoints of a run by the number of updates done, the newest first."""
    found = {int(m[1]): path for path in folder.glob("checkpoint-*") if (m := _NAME.fullmatch(path.name))}
    return dict(sorted(found.items(), reverse=True))


def save(folder: Path, update: int, state: State) -> Path:
    """Write the checkpoint after ``update`` updates, then drop all but the last two."""
    path = folder / f"checkpoint-{update:09d}.safetensors"
    write(path, state)
    for _, old in list(numbered(folder).items())[KEPT:]:
        old.unlink(missing_ok=True)
    return path


def newest(folder: Path, say: Callable[[str], None]) -> tuple[int, State] | None:
    """The last checkpoint that is whole, and how many updates it is after; ``None`` where there is none.

    A damaged one is told of, set aside as ``….damaged``, and the one before it is taken.

    Raises:
        AttnbenchError: there are checkpoints, and none is whole.
    """
    found = numbered(folder)
    for update, path in found.items():
        try:
            return update, read(path)
        except DamagedError as error:
            aside = path.with_suffix(".damaged")
            with contextlib.suppress(OSError):
                path.replace(aside)
            say(f"{error}; set aside as {aside.name}, going back to the one before")
    if found:
        raise AttnbenchError(f"no checkpoint of {folder} is whole; give another --out to begin anew")
    return None


@contextlib.contextmanager
def alone(folder: Path, patience_s: float = 10.0) -> Iterator[None]:
    """Hold a run's folder against other processes; a process that dies lets go of it.

    Raises:
        AttnbenchError: another process has held it for ``patience_s``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + patience_s
    with (folder / ".lock").open("a+") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    file.seek(0)
                    raise AttnbenchError(
                        f"process {file.read().strip() or '?'} trains in {folder} already; wait for it, end "
                        "it, or give another --out"
                    ) from None
                time.sleep(0.2)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def clean(folder: Path) -> None:
    """Remove what writers that were killed left behind."""
    for part in folder.glob(".*.part"):
        part.unlink(missing_ok=True)


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of tensors that share memory with one before: safetensors keeps each by itself."""
    seen: set[int] = set()
    found = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        found[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return found


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 of names, shapes and bytes, in the order of names."""
    value = 0
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        value = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), value)
        value = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, value)
    return f"{value:08x}"


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
