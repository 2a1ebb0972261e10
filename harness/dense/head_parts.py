"""What several dense heads are made of."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

Size = tuple[int, int]


class ConvNormAct(nn.Sequential):
    """Convolution without bias, BatchNorm, ReLU; mmcv's ``ConvModule`` and its initialisation.

    On several GPUs BatchNorm becomes SyncBatchNorm (``torch.nn.SyncBatchNorm.convert_sync_batchnorm``).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        super().__init__(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


def classifier(channels: int, num_classes: int) -> nn.Sequential:
    """Channel dropout of 0.1, then a 1 × 1 convolution drawn from a normal of σ = 0.01."""
    conv = nn.Conv2d(channels, num_classes, 1)
    nn.init.normal_(conv.weight, std=0.01)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return nn.Sequential(nn.Dropout2d(0.1), conv)


def feature_pyramid(
    channels: Sequence[int], width: int, extra: ExtraFPNBlock | None = None
) -> FeaturePyramidNetwork:
    """torchvision's pyramid, which is mmdetection's and mmsegmentation's form, initialised as theirs.

    Laterals: 1 × 1 with bias; nearest resize and sum from the top down; one 3 × 3 with bias a level; no
    norm, no activation. Weights are Xavier-uniform (torchvision: Kaiming-uniform), biases zero.
    """
    pyramid = FeaturePyramidNetwork(list(channels), width, extra_blocks=extra)
    for module in pyramid.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
            assert module.bias is not None
            nn.init.zeros_(module.bias)
    return pyramid


def run_pyramid(pyramid: nn.Module, maps: Sequence[Tensor]) -> list[Tensor]:
    """The pyramid's maps of a list of maps, finest first, extra levels last."""
    return list(pyramid({str(level): x for level, x in enumerate(maps)}).values())


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear, corners not aligned: the one resize mode of these heads but for the pyramid's."""
    return F.interpolate(x, list(size), mode="bilinear", align_corners=False)


def conv_macs(module: Any, size: Size) -> int:
    """Multiply-adds of all convolutions of a module whose outputs are of ``size``; biases are additions."""
    weights = sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Conv2d))
    return size[0] * size[1] * weights


def pyramid_macs(pyramid: FeaturePyramidNetwork, sizes: Sequence[Size]) -> int:
    """Multiply-adds of :func:`feature_pyramid` without its extra levels."""
    blocks = zip(pyramid.inner_blocks, pyramid.layer_blocks, sizes, strict=True)
    return sum(conv_macs(inner, size) + conv_macs(outer, size) for inner, outer, size in blocks)
