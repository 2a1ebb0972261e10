"""Weights of other implementations, renamed to ours.

A :class:`KeyMap` per implementation tells its state dicts from others and renames what is in them:
BiFormer's releases (rayleizhu/BiFormer; classes ``BiFormerSTL`` and ``BiFormer`` in their legacy form, and
``nchwBiFormerSTL``, the refactored form, of the same names but for the attention), timm's Swin, and
Microsoft's, which is timm's older form.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from attnbench.errors import AttnbenchError, UnknownNameError
from attnbench.harness.models.weights import read_state_dict

Rules = tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]


@dataclass(frozen=True)
class KeyMap:
    """How the names of one implementation become ours.

    Args:
        title: whose weights they are.
        marks: patterns that are each found in a name of its state dicts; other maps' dicts lack one.
        rules: pattern and replacement, all applied in order to every name.
        dropped: pattern of names that are left out: what we compute.
        trained_with: options of the mechanism that the weights need, and that their shapes do not show.
    """

    title: str
    marks: tuple[str, ...]
    rules: Rules = ()
    dropped: str = r"^$"
    trained_with: Mapping[str, Any] = field(default_factory=dict)

    def fits(self, state: Mapping[str, Tensor]) -> bool:
        """Whether a state dict is of this implementation, as far as names tell."""
        return all(any(re.search(mark, name) for name in state) for mark in self.marks)

    def convert(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors by our names; 1 × 1 convolutions where we have linear layers keep their shape."""
        # BiFormer's full attention is part of our module for BRA, under "full".
        full = {name.removesuffix("proj.weight") for name in state if re.search(_FULL, name)}
        named = {}
        for name, value in state.items():
            if re.search(self.dropped, name):
                continue
            head, attention, rest = name.partition(".attn.")
            new = f"{head}.attn.full.{rest}" if head + attention in full else name
            for pattern, replacement in self.rules:
                new = re.sub(pattern, replacement, new)
            named[new] = value
        return named


_FULL = r"^stages\..*\.attn\.proj\.weight$"
_BIFORMER: Rules = (
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.[23]\.", ".mlp.fc2."),
    (r"\.attn\.(qkv\.qkv|qkv_linear)\.", ".attn.qkv."),
    (r"\.attn\.(wo|output_linear)\.", ".attn.proj."),
    (r"^head\.", "head.fc."),
)
_STL: Rules = (
    (r"^downsample_layers\.0\.0\.", "patch_embed.proj."),
    (r"^downsample_layers\.0\.1\.", "patch_embed.norm."),
    (r"^downsample_layers\.(\d)\.0\.", r"layers.\1.downsample.norm."),
    (r"^downsample_layers\.(\d)\.1\.", r"layers.\1.downsample.conv."),
    (r"^stages\.", "layers."),
    *_BIFORMER,
)
_OVERLAPPED: Rules = (
    (r"^downsample_layers\.0\.0\.", "patch_embed.conv1."),
    (r"^downsample_layers\.0\.1\.", "patch_embed.norm1."),
    (r"^downsample_layers\.0\.3\.", "patch_embed.conv2."),
    (r"^downsample_layers\.0\.4\.", "patch_embed.norm2."),
    (r"^downsample_layers\.(\d)\.0\.", r"layers.\1.downsample.conv."),
    (r"^downsample_layers\.(\d)\.1\.", r"layers.\1.downsample.norm."),
    (r"^stages\.(\d+)\.(\d+)\.", r"layers.\1.blocks.\2."),
    *_BIFORMER,
)
_LEGACY, _NCHW = {"full_lepe_input": "x"}, {"full_lepe_input": "v"}
_TABLE: Rules = ((r"relative_position_bias_table$", "bias_table"),)
_COMPUTED = r"(attn_mask|relative_position_index)$"


def _next_stage(match: re.Match[str]) -> str:
    return f"layers.{int(match[1]) + 1}.downsample."


KEY_MAPS: dict[str, KeyMap] = {
    "biformer_stl": KeyMap(
        "BiFormer-STL, legacy form",
        (r"^downsample_layers\.0\.0\.", r"^stages\.0\.blocks\.0\.attn\.qkv\.qkv\."),
        _STL,
        trained_with=_LEGACY,
    ),
    "biformer_stl_nchw": KeyMap(
        "BiFormer-STL, refactored (nchw) form",
        (r"^downsample_layers\.0\.0\.", r"^stages\.0\.blocks\.0\.attn\.qkv_linear\."),
        _STL,
        trained_with=_NCHW,
    ),
    "biformer": KeyMap(
        "BiFormer-T, -S or -B, legacy form",
        (r"^downsample_layers\.0\.3\.", r"^stages\.0\.0\.attn\.qkv\.qkv\."),
        _OVERLAPPED,
        trained_with=_LEGACY,
    ),
    "biformer_nchw": KeyMap(
        "BiFormer-T, -S or -B, refactored (nchw) form",
        (r"^downsample_layers\.0\.3\.", r"^stages\.0\.0\.attn\.qkv_linear\."),
        _OVERLAPPED,
        trained_with=_NCHW,
    ),
    "timm_swin": KeyMap(
        "Swin, as timm has it",
        (r"attn\.relative_position_bias_table$", r"^layers\.3\.downsample\."),
        _TABLE,
        _COMPUTED,
    ),
    "swin": KeyMap(
        "Swin, as Microsoft released it",
        (r"attn\.relative_position_bias_table$", r"^layers\.0\.downsample\."),
        ((r"^layers\.(\d+)\.downsample\.", _next_stage), (r"^head\.(?!fc\.)", "head.fc."), *_TABLE),
        _COMPUTED,
    ),
    "attnbench": KeyMap("attnbench", (r"^patch_embed\.", r"^layers\.0\.blocks\.0\.mlp\.fc1\.")),
}
"""In the order in which they are tried."""


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


def recognise(state: Mapping[str, Tensor], what: str = "the state dict") -> str:
    """Name of the key map for a state dict.

    Raises:
        AttnbenchError: none fits.
    """
    for name, key_map in KEY_MAPS.items():
        if key_map.fits(state):
            return name
    raise AttnbenchError(
        f"{what} is of no implementation that is known ({', '.join(KEY_MAPS)}); "
        f"its first names are {_some(list(state), 3)}"
    )


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
                f"{have[option]!r}: build it with that option"
            )


def _as_linear(value: Tensor, own: Tensor | None) -> Tensor:
    """The weight of a 1 × 1 convolution as that of a linear layer, where we have one."""
    if own is not None and own.ndim == 2 and value.ndim == 4 and value.shape[2:] == (1, 1):
        return value.flatten(1)
    return value


def _called(model: nn.Module) -> str:
    layout, mechanism = getattr(model, "layout", None), getattr(model, "mechanism", None)
    return f"{layout.name} with {mechanism}" if layout is not None else type(model).__name__


def _some(names: list[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
