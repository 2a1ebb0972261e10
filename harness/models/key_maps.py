"""The names that other implementations give to weights, and how they become ours.

A :class:`KeyMap` per implementation tells its state dicts from others and renames what is in them:
BiFormer's releases (rayleizhu/BiFormer; classes ``BiFormerSTL`` and ``BiFormer`` in their legacy form, and
``nchwBiFormerSTL``, the refactored form, of the same names but for the attention), timm's Swin, and
Microsoft's, which is timm's older form.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from attnbench.errors import AttnbenchError

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


OF_DENSE = "attnbench_dense"
_BODY = r"^(?:model\.)?(?:backbone\.)?maps\.body\."

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
    OF_DENSE: KeyMap(
        "backbone of a dense model of attnbench",
        (f"{_BODY}patch_embed",),
        ((_BODY, ""),),
        f"^(?!{_BODY[1:]})",
    ),
    "attnbench": KeyMap(
        "attnbench",
        (r"^(model\.)?patch_embed\.", r"^(model\.)?layers\.0\.blocks\.0\.mlp\.fc1\."),
        rules=((r"^model\.", ""),),
        dropped=r"^ema\.",
    ),
}
"""In the order in which they are tried."""


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
        f"its first names are {', '.join(list(state)[:3])}"
    )
