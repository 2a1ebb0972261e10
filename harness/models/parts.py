"""The parts of a backbone besides its attention. Maps are (B, H, W, C) between parts.

A part that multiplies says how often: ``macs`` gives its multiply-adds per image.
Sources: timm's Swin for ``patch`` stems and ``linear`` merging; BiFormer's models/biformer_stl.py and
models/biformer.py for the others. Where the stride does not divide a map, it is padded with zeros at the
bottom and the right, as in Swin (BiFormer's STL drops the rest).
"""

from collections.abc import Callable
from functools import partial

from timm.layers import DropPath, Mlp, PatchEmbed
from timm.models.swin_transformer import PatchMerging
from torch import Tensor, nn
from torch.jit._trace import is_tracing
from torch.nn import functional as F

from attnbench.errors import AttnbenchError
from attnbench.layouts import Layout

Norm = Callable[..., nn.Module]
"""Makes a norm, given the channels."""


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation of (B, H, W, C); parameters and buffers are those of ``nn.BatchNorm2d``."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class MapConv(nn.Conv2d):
    """A convolution of (B, H, W, C) whose parameters are those of ``nn.Conv2d``."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H', W', C')."""
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    def macs(self, rows: int, columns: int) -> int:
        """Multiply-adds for an output of rows × columns."""
        return rows * columns * self.weight.numel()


class PatchStem(PatchEmbed):
    """Images (B, in_chans, height, width) to maps, one token per patch: convolution, then norm."""

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, in_chans, height, width) to (B, ⌈height/p⌉, ⌈width/p⌉, dim), for patches of p pixels."""
        return super().forward(images).contiguous()  # behind BatchNorm it is a view of (B, C, H, W)

    def macs(self, height: int, width: int) -> tuple[int, int]:
        """Multiply-adds for an image of height × width pixels: of the first layer, and of those after it."""
        rows, columns = (-(-side // self.patch_size[0]) for side in (height, width))
        return rows * columns * self.proj.weight.numel(), 0


class OverlappedStem(nn.Module):
    """Images (B, in_chans, height, width) to maps: two 3 × 3 convolutions of stride 2 with norms."""

    def __init__(self, in_chans: int, dim: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = MapConv(in_chans, dim // 2, 3, 2, 1)
        self.norm1 = norm(dim // 2)
        self.act = nn.GELU()
        self.conv2 = MapConv(dim // 2, dim, 3, 2, 1)
        self.norm2 = norm(dim)

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, in_chans, height, width) to (B, ⌈height/4⌉, ⌈width/4⌉, dim)."""
        x = self.act(self.norm1(self.conv1(images.permute(0, 2, 3, 1))))
        return self.norm2(self.conv2(x)).contiguous()

    def macs(self, height: int, width: int) -> tuple[int, int]:
        """Multiply-adds for an image of height × width pixels: of the first layer, and of those after it."""
        first = self.conv1.macs(-(-height // 2), -(-width // 2))
        return first, self.conv2.macs(-(-height // 4), -(-width // 4))


class LinearMerging(PatchMerging):
    """Map (B, H, W, C) to (B, ⌈H/2⌉, ⌈W/2⌉, 2C): four neighbours, norm, linear."""

    def macs(self, rows: int, columns: int) -> int:
        """Multiply-adds for an output of rows × columns."""
        return rows * columns * self.reduction.weight.numel()


class ConvMerging(nn.Module):
    """Map (B, H, W, C) to (B, ⌈H/2⌉, ⌈W/2⌉, 2C): norm, then a 2 × 2 convolution of stride 2."""

    def __init__(self, dim: int, norm: Norm) -> None:
        super().__init__()
        self.norm = norm(dim)
        self.conv = MapConv(dim, 2 * dim, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, ⌈H/2⌉, ⌈W/2⌉, 2C)."""
        x = self.norm(x)
        if x.shape[1] % 2 or x.shape[2] % 2:
            x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        return self.conv(x)

    def macs(self, rows: int, columns: int) -> int:
        """Multiply-adds for an output of rows × columns."""
        return self.conv.macs(rows, columns)


class OverlappedMerging(nn.Module):
    """Map (B, H, W, C) to (B, ⌈H/2⌉, ⌈W/2⌉, 2C): a 3 × 3 convolution of stride 2, then norm."""

    def __init__(self, dim: int, norm: Norm) -> None:
        super().__init__()
        self.conv = MapConv(dim, 2 * dim, 3, 2, 1)
        self.norm = norm(2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, ⌈H/2⌉, ⌈W/2⌉, 2C)."""
        return self.norm(self.conv(x))

    def macs(self, rows: int, columns: int) -> int:
        """Multiply-adds for an output of rows × columns."""
        return self.conv.macs(rows, columns)


class Block(nn.Module):
    """Pre-norm residual block: position encoding if any, attention, then MLP."""

    def __init__(self, layout: Layout, dim: int, attention: nn.Module, drop_path: float) -> None:
        super().__init__()
        kernel = layout.position_kernel
        self.pos_embed = MapConv(dim, dim, kernel, padding=kernel // 2, groups=dim) if kernel else None
        self.norm1 = nn.LayerNorm(dim, eps=layout.norm_eps)
        self.attn = attention
        self.norm2 = nn.LayerNorm(dim, eps=layout.norm_eps)
        self.mlp = Mlp(dim, int(dim * layout.mlp_ratio))
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        if self.pos_embed is not None:
            x = x + self.pos_embed(x)
        mixed = self.attn(self.norm1(x))
        if mixed.shape != x.shape and not is_tracing():  # the sum might broadcast it
            raise AttnbenchError(f"attention must map {tuple(x.shape)} to itself, got {tuple(mixed.shape)}")
        x = x + self.drop_path(mixed)
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def macs(self, rows: int, columns: int) -> dict[str, int]:
        """Multiply-adds on a map of rows × columns, without the attention's."""
        cost = {"mlp": rows * columns * (self.mlp.fc1.weight.numel() + self.mlp.fc2.weight.numel())}
        if self.pos_embed is not None:
            cost["position_encoding"] = self.pos_embed.macs(rows, columns)
        return cost


def make_norm(layout: Layout) -> Norm:
    """What makes the norms outside blocks."""
    return BatchNorm if layout.norm == "batch" else partial(nn.LayerNorm, eps=layout.norm_eps)


def make_stem(layout: Layout) -> PatchStem | OverlappedStem:
    """The part that turns images into the first map."""
    if layout.stem == "overlapped":
        return OverlappedStem(layout.in_chans, layout.embed_dim, make_norm(layout))
    return PatchStem(
        img_size=layout.img_size,
        patch_size=layout.patch_size,
        in_chans=layout.in_chans,
        embed_dim=layout.embed_dim,
        norm_layer=make_norm(layout),
        output_fmt="NHWC",
        strict_img_size=False,
        dynamic_img_pad=True,
    )


def make_merging(layout: Layout, stage: int) -> nn.Module:
    """The part before the blocks of a stage; none before the first."""
    if stage == 0:
        return nn.Identity()
    dim, norm = layout.dim(stage - 1), make_norm(layout)
    if layout.merging == "linear":
        return LinearMerging(dim, norm_layer=norm)
    return ConvMerging(dim, norm) if layout.merging == "conv" else OverlappedMerging(dim, norm)
