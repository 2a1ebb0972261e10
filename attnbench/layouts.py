"""The layouts a mechanism is dropped into, as data; :mod:`attnbench.harness.models.backbone` builds them."""

from collections.abc import Iterator
from dataclasses import dataclass

from attnbench.errors import UnknownNameError
from attnbench.registry import Site


@dataclass(frozen=True)
class Layout:
    """A four-stage backbone in the manner of Swin, less its attention.

    Stage i has ``depths[i]`` blocks of ``embed_dim``·2^i channels in heads of ``head_dim`` channels, on
    maps of ``img_size`` / (``patch_size``·2^i) tokens a side, rounded up.

    Args:
        drop_path_rate: of the last block; it grows linearly from 0 at the first.
        img_size: nominal resolution in pixels; other sizes are accepted when the model runs.
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

LAYOUTS = {layout.name: layout for layout in (SWIN_T, SWIN_PICO)}


def get_layout(name: str) -> Layout:
    """The layout called ``name``.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in LAYOUTS:
        raise UnknownNameError("layout", name, LAYOUTS)
    return LAYOUTS[name]
