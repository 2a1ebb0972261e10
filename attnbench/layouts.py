"""The layouts a mechanism is dropped into, as data; :mod:`attnbench.harness.models.backbone` builds them.

Sources: Liu et al., 2021, "Swin Transformer", arXiv:2103.14030; Zhu et al., 2023, "BiFormer",
arXiv:2303.08810, Tables 1 and 6, and the authors' code (rayleizhu/BiFormer), which is not Swin-T's layout
where it says so.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from attnbench.errors import AttnbenchError, UnknownNameError
from attnbench.registry import Site

_KINDS = {
    "stem": ("patch", "overlapped"),
    "merging": ("linear", "conv", "overlapped"),
    "norm": ("layer", "batch"),
}


@dataclass(frozen=True)
class Layout:
    """A four-stage backbone in the manner of Swin, less its attention.

    Stage i has ``depths[i]`` blocks of ``embed_dim``·2^i channels in heads of ``head_dim`` channels, on
    maps of ``img_size`` / (``patch_size``·2^i) tokens a side, rounded up.

    Args:
        drop_path_rate: of the last block; it grows linearly from 0 at the first.
        img_size: nominal resolution in pixels; other sizes are accepted when the model runs.
        stem: ``patch``: one convolution of ``patch_size``, which is its stride, then a norm.
            ``overlapped``: two 3 × 3 convolutions of stride 2, each with a norm, GELU between them.
        merging: how a map becomes the next stage's. ``linear``: four neighbours, norm, linear (Swin).
            ``conv``: norm, 2 × 2 convolution of stride 2. ``overlapped``: 3 × 3 convolution of it, norm.
        norm: of the stem, of merging and before the head: ``layer`` or ``batch``. Blocks have LayerNorm.
        norm_eps: of every LayerNorm.
        position_kernel: side of a depth-wise convolution added to a block's input; 0 for none.
        token_labels: have a second head that classifies every token (token labelling).
        defaults: options that a mechanism has in this layout, by its name, unless told otherwise. One value,
            or a tuple with one per stage.
    """

    name: str
    title: str
    embed_dim: int
    depths: tuple[int, ...]
    head_dim: int
    mlp_ratio: float
    drop_path_rate: float
    patch_size: int
    img_size: int
    num_classes: int
    in_chans: int
    stem: str = "patch"
    merging: str = "linear"
    norm: str = "layer"
    norm_eps: float = 1e-5
    position_kernel: int = 0
    token_labels: bool = False
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name, known in _KINDS.items():
            if getattr(self, name) not in known:
                raise UnknownNameError(name, str(getattr(self, name)), known)
        if self.stem == "overlapped" and self.patch_size != 4:
            raise AttnbenchError(f"an overlapped stem has a stride of 4, got patch_size {self.patch_size}")

    def dim(self, stage: int) -> int:
        """Channels of a stage."""
        return int(self.embed_dim * 2**stage)

    def map_sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """Tokens (rows, columns) of each stage's map for an image of height × width pixels."""
        size = (-(-height // self.patch_size), -(-width // self.patch_size))
        sizes = [size]
        for _ in self.depths[1:]:
            size = (-(-size[0] // 2), -(-size[1] // 2))
            sizes.append(size)
        return sizes

    def sites(self, height: int, width: int) -> Iterator[Site]:
        """The place of each attention module, in order."""
        for stage, (rows, columns) in enumerate(self.map_sizes(height, width)):
            dim = self.dim(stage)
            for block in range(self.depths[stage]):
                yield Site(dim, dim // self.head_dim, rows, columns, stage, block)

    def digest(self) -> str:
        """Sixteen hex digits of all that makes the layout, which its title does not.

        Records carry it: an edited layout is another layout.
        """
        facts = {k: v for k, v in dataclasses.asdict(self).items() if k != "title"}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


SWIN_T = Layout(
    name="swin_t",
    title="Swin-T layout",
    embed_dim=96,
    depths=(2, 2, 6, 2),
    head_dim=32,
    mlp_ratio=4.0,
    drop_path_rate=0.2,
    patch_size=4,
    img_size=224,
    num_classes=1000,
    in_chans=3,
)

SWIN_PICO = Layout(
    name="swin_pico",
    title="Swin-pico layout",
    embed_dim=16,
    depths=(2, 2, 2, 2),  # two blocks a stage, so that mechanisms that alternate do
    head_dim=8,
    mlp_ratio=4.0,
    drop_path_rate=0.0,
    patch_size=2,
    img_size=28,
    num_classes=10,
    in_chans=1,
)

# Drop path: 0.15 of BiFormer-S is in the authors' README; for the others of theirs no source was found.

# What BRA is in BiFormer's code: its last stage keeps the defaults of the full attention used there, and
# maps that the regions do not divide are padded before the projection.
_BRA = {"full_num_heads": 8, "full_qkv_bias": False, "full_lepe_input": "x", "padding": "legacy"}

BIFORMER_STL = dataclasses.replace(
    SWIN_T,
    name="biformer_stl",
    title="BiFormer-STL layout",
    merging="conv",
    norm="batch",
    norm_eps=1e-6,
    defaults={"bra": _BRA},
)

BIFORMER_STL_OVERLAPPED = dataclasses.replace(
    BIFORMER_STL,
    name="biformer_stl_overlapped",
    title="BiFormer-STL layout, overlapped patch embedding",
    stem="overlapped",
    merging="overlapped",
)

BIFORMER_DEEPER = dataclasses.replace(
    BIFORMER_STL_OVERLAPPED,
    name="biformer_deeper",
    title="BiFormer-S layout without position encoding",
    embed_dim=64,
    depths=(4, 4, 18, 4),
    mlp_ratio=3.0,
    drop_path_rate=0.15,
)

BIFORMER_SMALL = dataclasses.replace(
    BIFORMER_DEEPER, name="biformer_small", title="BiFormer-S layout", position_kernel=3
)

BIFORMER_TINY = dataclasses.replace(
    BIFORMER_SMALL, name="biformer_tiny", title="BiFormer-T layout", depths=(2, 2, 8, 2), drop_path_rate=0.1
)

BIFORMER_BASE = dataclasses.replace(
    BIFORMER_SMALL, name="biformer_base", title="BiFormer-B layout", embed_dim=96, drop_path_rate=0.4
)

BIFORMER_SMALL_TOKEN_LABELS = dataclasses.replace(
    BIFORMER_SMALL,
    name="biformer_small_token_labels",
    title="BiFormer-S layout with token labelling",
    token_labels=True,
)

BIFORMER_BASE_TOKEN_LABELS = dataclasses.replace(
    BIFORMER_BASE,
    name="biformer_base_token_labels",
    title="BiFormer-B layout with token labelling",
    token_labels=True,
)

MAXVIT_STL = dataclasses.replace(
    BIFORMER_STL, name="maxvit_stl", title="MaxViT-STL layout", norm="layer", defaults={}
)

LAYOUTS = {
    layout.name: layout
    for layout in (
        SWIN_T,
        SWIN_PICO,
        BIFORMER_STL,
        BIFORMER_STL_OVERLAPPED,
        BIFORMER_DEEPER,
        BIFORMER_TINY,
        BIFORMER_SMALL,
        BIFORMER_BASE,
        BIFORMER_SMALL_TOKEN_LABELS,
        BIFORMER_BASE_TOKEN_LABELS,
        MAXVIT_STL,
    )
}


def get_layout(name: str) -> Layout:
    """The layout called ``name``.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in LAYOUTS:
        raise UnknownNameError("layout", name, LAYOUTS)
    return LAYOUTS[name]
