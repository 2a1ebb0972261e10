"""What a layout is: the sizes of a backbone in the manner of Swin, as data."""

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

    @property
    def merges(self) -> bool:
        """Whether it has more than one stage, so that tokens are merged on the way."""
        return len(self.depths) > 1

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
