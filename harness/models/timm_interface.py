"""What timm's scripts, and the frameworks that take timm's models, ask of a model.

The methods and attributes have timm's names and meaning; see its ``SwinTransformer``.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from attnbench.errors import AttnbenchError
from attnbench.harness.models.parts import OverlappedStem, PatchStem
from attnbench.layouts import Layout


class TimmInterface(nn.Module):
    """The part of a backbone that makes it a citizen of timm. Maps are (B, H, W, C) unless it says NCHW."""

    layout: Layout
    patch_embed: PatchStem | OverlappedStem
    layers: nn.Sequential
    norm: nn.Module
    head: Any
    aux_head: nn.Module | None
    output_fmt = "NHWC"

    @property
    def num_classes(self) -> int:
        """Classes of the head; 0 where it was taken away."""
        return self.layout.num_classes

    @property
    def in_chans(self) -> int:
        """Channels of an image."""
        return self.layout.in_chans

    @property
    def num_features(self) -> int:
        """Channels of the last map."""
        return self.layout.dim(len(self.layout.depths) - 1)

    @property
    def head_hidden_size(self) -> int:
        """Width of what the classifier reads; ``catavgmax`` pooling doubles it."""
        return int(self.num_features * self.head.global_pool.feat_mult())

    @property
    def global_pool(self) -> str:
        """How the head pools; empty for not at all."""
        return str(self.head.global_pool.pool_type)

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """Channels, stride in pixels and name of each stage's map."""
        return [
            {
                "num_chs": self.layout.dim(stage),
                "reduction": self.layout.patch_size * 2**stage,
                "module": f"layers.{stage}",
            }
            for stage in range(len(self.layers))
        ]

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The maps of stages, as detection and segmentation want them.

        Args:
            x: images (B, in_chans, height, width).
            indices: stages; the last n if a number, all if ``None``.
            norm: apply the final norm to the last stage's map.
            stop_early: run no stage beyond the last one wanted.
            output_fmt: ``NCHW`` or ``NHWC``, of the maps.
            intermediates_only: leave out the final map.

        Returns:
            The maps; before them, unless left out, the final map (B, H, W, C), normed if all stages ran.

        Raises:
            AttnbenchError: ``output_fmt`` is another.
        """
        if output_fmt not in ("NCHW", "NHWC"):
            raise AttnbenchError(f"output_fmt must be 'NCHW' or 'NHWC', got {output_fmt!r}")
        wanted = _chosen(len(self.layers), indices)
        maps = []
        x = self.patch_embed(x)
        stages = self.layers[: max(wanted) + 1] if stop_early else self.layers
        for index, stage in enumerate(stages):
            x = stage(x)
            if index in wanted:
                y = self.norm(x) if norm and index == len(self.layout.depths) - 1 else x
                maps.append(y.permute(0, 3, 1, 2).contiguous() if output_fmt == "NCHW" else y)
        if intermediates_only:
            return maps
        return (self.norm(x) if len(stages) == len(self.layout.depths) else x), maps

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Take away the stages beyond the last one wanted, with the norm that fits the last stage only.

        Returns:
            The stages that are wanted, counted from the first.
        """
        wanted = _chosen(len(self.layers), indices)
        last = max(wanted)
        if prune_norm or last < len(self.layers) - 1:
            self.norm = nn.Identity()
        self.layers = self.layers[: last + 1]
        self.layout = replace(self.layout, depths=self.layout.depths[: last + 1])
        if prune_head:
            self.reset_classifier(0, "")
        return wanted

    def get_classifier(self) -> nn.Module:
        """The last layer of the head."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new head in place.

        Args:
            num_classes: 0 for no classifier.
            global_pool: ``avg``, ``max``, ``avgmax``, ``catavgmax``, empty for none; ``None``: as is.
        """
        self.layout = replace(self.layout, num_classes=num_classes)
        self.head.reset(num_classes, pool_type=global_pool)
        if self.layout.token_labels:
            self.aux_head = nn.Linear(self.num_features, num_classes) if num_classes else None
        for head in filter(None, (self.head, self.aux_head)):
            head.to(next(self.parameters())).train(self.training)  # to its device and dtype

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only each block's input for the backward pass, which then runs the block once more."""
        stage: Any
        for stage in self.layers:
            stage.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that sort parameters by depth, for layer-wise learning rates: by stage if ``coarse``."""
        blocks: Any = r"^layers\.(\d+)"
        if not coarse:
            blocks = [
                (r"^layers\.(\d+)\.downsample", (0,)),
                (r"^layers\.(\d+)\.blocks\.(\d+)", None),
                (r"^norm", (99999,)),
            ]
        return {"stem": r"^patch_embed", "blocks": blocks}

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters without weight decay, besides those of one axis: tables of positions."""
        return {name for name, _ in self.named_parameters() if name.endswith("table")}


def _chosen(stages: int, indices: int | Sequence[int] | None) -> list[int]:
    """Numbers of the stages meant: all, the last n, or those given (negative ones count from the end)."""
    if indices is None or isinstance(indices, int):
        first = 0 if indices is None else stages - indices
        indices = range(first, stages)
    wanted = [index + stages if index < 0 else index for index in indices]
    if not wanted or not all(0 <= index < stages for index in wanted):
        raise AttnbenchError(f"there are {stages} stages, got indices {list(indices)}")
    return wanted
