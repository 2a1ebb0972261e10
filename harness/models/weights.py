"""Files of weights, read as tensors only: no code that a file may hold is run.

A pickle can call anything when it is read. torch's ``weights_only`` reader refuses all but tensors and plain
containers. Checkpoints often keep the settings of their training too; the classes those are made of are
replaced by an empty one, so that such files can be read without the packages and without their code.
"""

import pickle
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from attnbench.errors import AttnbenchError

PARTS = ("model", "state_dict", "model_ema", "state_dict_ema")
"""Where checkpoints keep a state dict, in the order in which we look."""
_SETTINGS = ("argparse.", "omegaconf.", "typing.")


def read_state_dict(path: str | Path, part: str | None = None) -> tuple[dict[str, Tensor], str]:
    """The tensors of a ``.safetensors`` file or of anything that ``torch.save`` wrote.

    Args:
        path: the file.
        part: of a checkpoint that holds several state dicts, e.g. ``model_ema``; ``None`` for the first of
            :data:`PARTS`, or the file itself.

    Returns:
        Tensors by name, and the name of the part they were found in, empty for the file itself.

    Raises:
        AttnbenchError: there is no such file or part, it cannot be read, or it would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise AttnbenchError(f"there is no file {path}; give the path of a checkpoint")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    found = {name: content[name] for name in PARTS if isinstance(content.get(name), Mapping)}
    if part is not None and part not in found:
        raise AttnbenchError(f"{path} has no part {part!r}; it has {', '.join(found) or 'one state dict'}")
    name = part or next(iter(found), "")
    state = found[name] if name else content
    tensors = {
        key.removeprefix("module."): value
        for key, value in state.items()
        if isinstance(value, Tensor) and isinstance(key, str)
    }
    if not tensors:
        raise AttnbenchError(
            f"{path} holds no tensors by name; expected a state dict, or one under {', '.join(PARTS)}"
        )
    return tensors, name


def write_state_dict(state: Mapping[str, Tensor], path: str | Path) -> None:
    """Write tensors, as safetensors if the name ends so, else as ``torch.save`` does.

    Raises:
        AttnbenchError: the file cannot be written.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import save_file

            save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
        else:
            torch.save(dict(state), path)
    except (OSError, RuntimeError) as error:
        raise AttnbenchError(f"cannot write {path}: {error}; give another file") from error


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise AttnbenchError(f"{path} is no safetensors file: {error}") from error


def _read_pickle(path: Path) -> Mapping[str, Any]:
    try:
        with safe_globals(_stand_ins(path)), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a newer pickle: what of it cannot be read is an error
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "nsupported" not in str(error):  # an operation or a global, which torch words in several ways
            raise _unreadable(path) from error
        names = ", ".join(_foreign(path)) or "code"
        raise AttnbenchError(
            f"{path} is refused: it holds {names}, which may run code when read, and only tensors are read; "
            "if you trust it, read it with torch.load(..., weights_only=False) and save its state dict"
        ) from error
    except (RuntimeError, EOFError, KeyError, ValueError, OSError) as error:
        raise _unreadable(path) from error
    if not isinstance(content, Mapping):
        raise AttnbenchError(f"{path} holds a {type(content).__name__}; expected a state dict")
    return content


def _stand_ins(path: Path) -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """Empty classes for those of training settings, by the names that the file calls them."""
    return [(type("Setting", (), {}), name) for name in _foreign(path) if name.startswith(_SETTINGS)]


def _foreign(path: Path) -> list[str]:
    """What the file names besides tensors and plain containers; unknown of files in torch's oldest format."""
    return get_unsafe_globals_in_checkpoint(path) if zipfile.is_zipfile(path) else []


def _unreadable(path: Path) -> AttnbenchError:
    return AttnbenchError(f"{path} cannot be read as a file of torch.save or safetensors; is it complete?")
