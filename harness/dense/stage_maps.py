"""A backbone as dense heads want it: the maps of its stages, each behind a norm of its own.

Swin and BiFormer give each output a new LayerNorm and hand the map itself, not the normed one, to the next
stage (Swin's detection and segmentation repositories; BiFormer's models_mm/biformer_mm.py). The classifier
and the final norm are taken away.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from attnbench.harness.models.backbone import Backbone

ALL_STAGES = (0, 1, 2, 3)


class StageMaps(nn.Module):
    """Images to the normed maps of some stages.

    Args:
        backbone: is pruned in place, its head and final norm with it.
        stages: whose maps to give, ascending.
        freeze_batch_norm: keep BatchNorm of the backbone in eval mode while the rest trains, its weights
            still learning (mmdetection's ``norm_eval``, as BiFormer's detectors have it).
    """

    def __init__(
        self, backbone: Backbone, stages: Sequence[int] = ALL_STAGES, freeze_batch_norm: bool = False
    ) -> None:
        super().__init__()
        layout = backbone.layout
        self.stages = backbone.prune_intermediate_layers(stages, prune_norm=True)
        self.body = backbone
        self.channels = [layout.dim(stage) for stage in self.stages]
        self.strides = [layout.patch_size * 2**stage for stage in self.stages]
        self.norms = nn.ModuleList(nn.LayerNorm(dim, eps=layout.norm_eps) for dim in self.channels)
        self.freeze_batch_norm = freeze_batch_norm

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map (B, in_chans, height, width) to one (B, C, H, W) a stage, finest first."""
        maps = self.body.forward_intermediates(
            images, self.stages, stop_early=True, output_fmt="NHWC", intermediates_only=True
        )
        return [norm(x).permute(0, 3, 1, 2) for norm, x in zip(self.norms, maps, strict=True)]

    def train(self, mode: bool = True) -> "StageMaps":
        """As ``nn.Module.train``, but for BatchNorm if it is frozen."""
        super().train(mode)
        if mode and self.freeze_batch_norm:
            for module in self.body.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """Rows and columns of each map for images of height × width pixels."""
        sizes = self.body.layout.map_sizes(height, width)
        return [sizes[stage] for stage in self.stages]

    def macs(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds per image by phase, by formula."""
        return {phase: cost for phase, cost in self.body.macs(height, width).items() if phase != "head"}
