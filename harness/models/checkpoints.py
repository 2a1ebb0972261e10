"""Weights of other implementations, loaded into our models: all of a file, or nothing.

Their names are told by :mod:`attnbench.harness.models.key_maps`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from attnbench.errors import AttnbenchError, UnknownNameError
from attnbench.harness.models.key_maps import KEY_MAPS, recognise
from attnbench.harness.models.weights import read_state_dict


@dataclass(frozen=True)
class Loaded:
    """What :func:`load_checkpoint` did: which key map and part of the file, how many tensors and numbers."""

    key_map: str
    part: str
    tensors: int
    numbers: int

    def __str__(self) -> str:
        where = f" of its part {self.part!r}" if self.part else ""
        return (
            f"{self.tensors} tensors{where}, {self.numbers:,} numbers, by key map {self.key_map} "
            f"({KEY_MAPS[self.key_map].title}); none missing, none left over"
        )


class CheckpointError(AttnbenchError):
    """A checkpoint and a model do not fit. The message shows some names, the lists hold all of them."""

    def __init__(self, what: str, missing: list[str], unexpected: list[str], misshapen: list[str]) -> None:
        self.missing, self.unexpected, self.misshapen = missing, unexpected, misshapen
        lists = (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
        told = "; ".join(f"{len(names)} {kind}: {_some(names)}" for kind, names in lists if names)
        super().__init__(f"{what}: {told}")


def load_checkpoint(
    model: nn.Module, path: str | Path, key_map: str | None = None, part: str | None = None
) -> Loaded:
    """Load a file of weights into a model made by :func:`attnbench.create_model`; all of it, or nothing.

    Args:
        model: takes the weights, in its own dtype and where it is.
        path: ``.safetensors``, or a file of ``torch.save``; see :func:`~.weights.read_state_dict`.
        key_map: a name of :data:`KEY_MAPS`; ``None`` for the one whose marks the file has.
        part: of a checkpoint with several state dicts.

    Raises:
        CheckpointError: names or shapes differ.
        AttnbenchError: the file cannot be read, would run code, is of no implementation that is known, or
            needs options that the model was not built with.
    """
    state, part = read_state_dict(path, part)
    name = key_map or recognise(state, str(path))
    if name not in KEY_MAPS:
        raise UnknownNameError("key map", name, KEY_MAPS)
    state = fit(model, state, name, str(path))
    model.load_state_dict(state)
    return Loaded(name, part, len(state), sum(value.numel() for value in state.values()))


def fit(
    model: nn.Module, state: Mapping[str, Tensor], key_map: str, what: str = "the state dict"
) -> dict[str, Tensor]:
    """The tensors by the model's names and in its shapes, each of them once.

    Raises:
        CheckpointError: names or shapes differ.
        AttnbenchError: the weights need options that the model was not built with.
    """
    _check_options(model, key_map)
    own = model.state_dict()
    state = {k: _as_linear(v, own.get(k)) for k, v in KEY_MAPS[key_map].convert(state).items()}
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    misshapen = [
        f"{k} {tuple(state[k].shape)} for {tuple(own[k].shape)}"
        for k in sorted(own.keys() & state.keys())
        if state[k].shape != own[k].shape
    ]
    if missing or unexpected or misshapen:
        why = f"{what}, read by key map {key_map}, does not fit {_called(model)}"
        raise CheckpointError(why, missing, unexpected, misshapen)
    return state


def from_timm_swin(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of timm's ``swin_*`` models for a backbone with ``shifted_window``.

    Raises:
        AttnbenchError: it is not a state dict of such a model.
    """
    if not KEY_MAPS["timm_swin"].fits(state):
        raise AttnbenchError("not a state dict of timm's Swin: it holds no relative_position_bias_table")
    return KEY_MAPS["timm_swin"].convert(state)


def _check_options(model: nn.Module, key_map: str) -> None:
    """Refuse weights for another function of the same shapes."""
    have = {}
    for module in getattr(model, "attentions", list)():
        if getattr(module, "full", None) is not None:
            have["full_lepe_input"] = module.full.lepe_input
    for option, value in KEY_MAPS[key_map].trained_with.items():
        if have.get(option, value) != value:
            raise AttnbenchError(
                f"weights by key map {key_map} need {option}={value!r}, but the model has "
                f"{have[option]!r}: build it with that option (attnbench load --set {option}={value})"
            )


def _as_linear(value: Tensor, own: Tensor | None) -> Tensor:
    """The weight of a 1 × 1 convolution as that of a linear layer, where we have one."""
    if own is not None and own.ndim == 2 and value.ndim == 4 and value.shape[2:] == (1, 1):
        return value.flatten(1)
    return value


def _called(model: nn.Module) -> str:
    layout, mechanism = getattr(model, "layout", None), getattr(model, "mechanism", None)
    return f"{layout.name} with {mechanism}" if layout is not None else type(model).__name__


def _some(names: list[str], most: int = 20) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
