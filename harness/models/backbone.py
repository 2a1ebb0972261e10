"""A layout with a hole where attention goes.

With ``shifted_window`` in ``swin_t`` it is timm's ``swin_tiny_patch4_window7_224``, with ``bra`` in the
``biformer_...`` layouts it is BiFormer; see :mod:`attnbench.harness.models.checkpoints` for their weights.
Sources: those of :mod:`attnbench.layouts`.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from timm.layers import ClassifierHead
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from attnbench.errors import AttnbenchError, UnknownNameError
from attnbench.harness.models.checkpoints import load_checkpoint
from attnbench.harness.models.layout_cost import WithFormula
from attnbench.harness.models.parts import Block, make_merging, make_norm, make_stem
from attnbench.harness.models.rungs import spec_on_rung
from attnbench.harness.models.timm_interface import TimmInterface
from attnbench.harness.setting import Setting
from attnbench.implementations import executed
from attnbench.layouts import Layout, get_layout
from attnbench.registry import MechanismSpec, Site, get
from attnbench.rungs import AUTHORS

if TYPE_CHECKING:
    from attnbench.harness.models.build import Model


class Stage(nn.Module):
    """Merging (but in the first stage), then blocks."""

    def __init__(self, downsample: nn.Module, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.Sequential(*blocks)
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, ⌈H/2⌉, ⌈W/2⌉, 2C), or to its own shape in the first stage."""
        x = self.downsample(x)
        if not self.grad_checkpointing:
            return self.blocks(x)
        for block in self.blocks:
            x = recompute(block, x, use_reentrant=False)
        return x


class Backbone(WithFormula, TimmInterface):
    """A :class:`~attnbench.layouts.Layout` with one attention module per block.

    Args:
        layout: channels, depths, sizes and parts.
        spec: the mechanism.
        impl: implementation of the mechanism, ``auto`` for its first.
        options: of the mechanism, over the layout's defaults for it; a list gives one value per stage.
        global_pool: ``avg``, ``max``, ``avgmax``, ``catavgmax``, or empty for logits of every token.
        drop_rate: dropout before the classifier.
        num_heads: attention heads in place of the layout's; a list gives one number per stage.

    Raises:
        AttnbenchError: an attention module cannot be built, or ``global_pool`` is unknown.
    """

    def __init__(
        self,
        layout: Layout,
        spec: MechanismSpec,
        *,
        impl: str = "auto",
        options: dict[str, Any] | None = None,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        num_heads: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if global_pool not in POOLS:
            raise UnknownNameError("global_pool", global_pool, POOLS)
        self.layout, self.mechanism = layout, spec.name
        self.options = {**layout.defaults.get(spec.name, {}), **(options or {})}
        self.patch_embed = make_stem(layout)
        rates = torch.linspace(0, layout.drop_path_rate, sum(layout.depths), device="cpu").tolist()
        stages: list[list[Block]] = [[] for _ in layout.depths]
        sites = [_with_heads(site, num_heads) for site in layout.sites(layout.img_size, layout.img_size)]
        for site, rate in zip(sites, rates, strict=True):
            attention = spec.build(site, impl=impl, **self.options)
            stages[site.stage].append(Block(layout, site.dim, attention, rate))
        self.layers = nn.Sequential(
            *(Stage(make_merging(layout, i), blocks) for i, blocks in enumerate(stages))
        )
        features = layout.dim(len(layout.depths) - 1)
        self.norm = make_norm(layout)(features)
        self.head = ClassifierHead(features, layout.num_classes, global_pool, drop_rate, input_fmt="NHWC")
        two = layout.token_labels and layout.num_classes > 0
        self.aux_head = nn.Linear(features, layout.num_classes) if two else None
        self.apply(_init_linear)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, in_chans, height, width) to logits (B, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Map images (B, in_chans, height, width) to the normed last map (B, H, W, C)."""
        return self.norm(self.layers(self.patch_embed(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Map (B, H, W, C) to logits (B, num_classes), or with ``pre_logits`` to what the classifier reads.

        Without pooling the output is a map. With token labels and pooling, half of the best token's logit is
        added for each class, as in LV-ViT (arXiv:2104.10858), whose way of training it is.
        """
        logits = self.head(x, pre_logits=pre_logits)
        if self.aux_head is None or pre_logits or not self.global_pool:
            return logits
        return logits + self.aux_head(x).amax((1, 2)) / 2

    def forward_dense(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images to logits (B, num_classes) of the image and (B, H, W, num_classes) of its tokens.

        What a loss on token labels compares.

        Raises:
            AttnbenchError: the layout has no token labels.
        """
        if self.aux_head is None:
            raise AttnbenchError(f"layout {self.layout.name} has no token labels, and so no head for tokens")
        features = self.forward_features(x)
        return self.head(features), self.aux_head(features)

    def blocks(self) -> list[Block]:
        """The blocks, in order."""
        stages: Any = self.layers
        return [block for stage in stages for block in stage.blocks]

    def attentions(self) -> list[nn.Module]:
        """The attention modules, in order."""
        return [block.attn for block in self.blocks()]


def create_model(
    layout: str, mechanism: str, *, impl: str = "auto", checkpoint: str | Path | None = None, **options: Any
) -> Backbone:
    """See :func:`attnbench.create_model`."""
    chosen = get_layout(layout)
    sizes = {key: options.pop(key) for key in _LAYOUT_OPTIONS if key in options}
    head = {key: options.pop(key) for key in _HEAD_OPTIONS if key in options}
    for key, value in {**sizes, **head}.items():
        if key in _BOUNDS:
            _within(key, value, *_BOUNDS[key])
    if "img_size" in sizes:
        sizes["img_size"] = _one_side(sizes["img_size"])
    spec = spec_on_rung(get(mechanism), options.pop("rung", AUTHORS))
    model = Backbone(replace(chosen, **sizes), spec, impl=impl, options=options, **head)
    if checkpoint is not None:
        load_checkpoint(model, checkpoint)
    return model


_LAYOUT_OPTIONS = ("num_classes", "in_chans", "img_size", "drop_path_rate", "mlp_ratio", "token_labels")
_HEAD_OPTIONS = ("global_pool", "drop_rate", "num_heads")
_BOUNDS: dict[str, tuple[type, float, float, str]] = {
    "num_classes": (int, 0, 10**7, "a whole number from 0"),
    "in_chans": (int, 1, 10**6, "a whole number from 1"),
    "drop_path_rate": (float, 0, 1, "a number from 0 to below 1"),
    "drop_rate": (float, 0, 1, "a number from 0 to below 1"),
    "mlp_ratio": (float, 1e-6, 1e6, "a number above 0"),
}
"""Type, least, and what it must be below, of the options that are numbers; and how to say it."""
POOLS = ("avg", "max", "avgmax", "catavgmax", "")


def _within(name: str, value: object, kind: type, least: float, below: float, expected: str) -> None:
    number = isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)
    if not number or not least <= float(value) < below:  # type: ignore[arg-type]
        raise AttnbenchError(f"{name} must be {expected}, got {value!r}")


def _with_heads(site: Site, num_heads: int | Sequence[int] | None) -> Site:
    """A site with another number of heads."""
    if num_heads is None:
        return site
    heads = [num_heads] if isinstance(num_heads, int) else num_heads
    try:
        return replace(site, num_heads=heads[min(site.stage, len(heads) - 1)])
    except (ValueError, TypeError, IndexError) as error:
        raise AttnbenchError(f"num_heads {num_heads} does not fit stage {site.stage}: {error}") from error


def _one_side(size: int | Sequence[int]) -> int:
    """Pixels a side of a nominal image, which is square; of timm's (height, width) the larger.

    Tables of positions are made to it. Images of any height and width are accepted.
    """
    sides = list(size) if isinstance(size, Sequence) and not isinstance(size, str) else [size]
    if len(sides) not in (1, 2) or not all(type(side) is int and side > 0 for side in sides):
        raise AttnbenchError(f"img_size must be a number of pixels, or height and width, got {size!r}")
    return max(sides)


def executed_impl(model: "Model", setting: Setting | None = None) -> str:
    """Implementations that the attention modules run, ``+``-joined where they differ.

    Args:
        model: has ``layout`` and ``attentions()``.
        setting: how the model is run; by default on the device and in the dtype of its weights, at the
            layout's resolution, in the mode that it is in.
    """
    first = next(model.parameters())
    device, dtype, training, size = first.device, first.dtype, model.training, model.layout.img_size
    if setting is not None:
        device, training, size = setting.device, setting.mode == "train", setting.resolution
        dtype = torch.bfloat16 if setting.precision.startswith("amp") else dtype
    found = {
        executed(attention, device, dtype, site.height, site.width, training)
        for site, attention in zip(model.layout.sites(size, size), model.attentions(), strict=True)
    }
    return "+".join(sorted(found))


def _init_linear(module: nn.Module) -> None:
    """Swin's initialisation of the linear layers: normal with σ = 0.02, zero bias."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
