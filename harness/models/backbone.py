"""A layout with a hole where attention goes.

With ``shifted_window`` in ``swin_t`` it is timm's ``swin_tiny_patch4_window7_224``, with ``bra`` in the
``biformer_...`` layouts it is BiFormer; see :mod:`attnbench.harness.models.checkpoints` for their weights.
Sources: those of :mod:`attnbench.layouts`.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from timm.layers import ClassifierHead
from torch import Tensor, nn

from attnbench.errors import AttnbenchError
from attnbench.harness.models.parts import Block, make_merging, make_norm, make_stem
from attnbench.layouts import Layout, get_layout
from attnbench.registry import MechanismSpec, Site, get

if TYPE_CHECKING:
    from attnbench.harness.models.build import Model


class Stage(nn.Module):
    """Merging (but in the first stage), then blocks."""

    def __init__(self, downsample: nn.Module, blocks: list[Block]) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, ⌈H/2⌉, ⌈W/2⌉, 2C), or to its own shape in the first stage."""
        return self.blocks(self.downsample(x))


class Backbone(nn.Module):
    """A :class:`~attnbench.layouts.Layout` with one attention module per block.

    Args:
        layout: channels, depths, sizes and parts.
        spec: the mechanism.
        impl: implementation of the mechanism, ``auto`` for its first.
        options: of the mechanism, over the layout's defaults for it; a list gives one value per stage.

    Raises:
        AttnbenchError: an attention module cannot be built.
    """

    def __init__(
        self,
        layout: Layout,
        spec: MechanismSpec,
        *,
        impl: str = "auto",
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.layout, self.mechanism = layout, spec.name
        self.options = {**layout.defaults.get(spec.name, {}), **(options or {})}
        self.patch_embed = make_stem(layout)
        rates = torch.linspace(0, layout.drop_path_rate, sum(layout.depths), device="cpu").tolist()
        stages: list[list[Block]] = [[] for _ in layout.depths]
        sites: list[Site] = list(layout.sites(layout.img_size, layout.img_size))
        for site, rate in zip(sites, rates, strict=True):
            attention = spec.build(site, impl=impl, **self.options)
            stages[site.stage].append(Block(layout, site.dim, attention, rate))
        self.layers = nn.Sequential(
            *(Stage(make_merging(layout, i), blocks) for i, blocks in enumerate(stages))
        )
        features = layout.dim(len(layout.depths) - 1)
        self.norm = make_norm(layout)(features)
        self.head = ClassifierHead(features, layout.num_classes, pool_type="avg", input_fmt="NHWC")
        self.aux_head = nn.Linear(features, layout.num_classes) if layout.token_labels else None
        self.apply(_init_linear)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, in_chans, height, width) to logits (B, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Map images to the normed last map (B, H, W, C)."""
        return self.norm(self.layers(self.patch_embed(x)))

    def forward_head(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to logits (B, num_classes).

        With token labels, half of the best token's logit is added for each class, as in LV-ViT
        (arXiv:2104.10858), whose way of training it is.
        """
        logits = self.head(x)
        return logits if self.aux_head is None else logits + self.aux_head(x).amax((1, 2)) / 2

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

    def attentions(self) -> list[nn.Module]:
        """The attention modules, in order."""
        return [block.attn for block in self._blocks()]

    def macs(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds per image of height × width pixels, by phase: the layout's and the attention's.

        Raises:
            AttnbenchError: the mechanism declares no formula (no method ``macs``).
        """
        return self._cost(height, width, _formula)

    def macs_backward(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds of the gradients of all parameters, by phase; the image needs none.

        Each product costs twice what it does forward, once for either factor. Phases named ``routing``
        choose and have no gradient. Where this does not hold, a mechanism has a method
        ``macs_backward(height, width)`` that gives its phases.
        """
        own = {phase: 2 * macs for phase, macs in self._layout_cost(height, width).items()}
        own["patch_embed"] -= self.patch_embed.macs(height, width)[0]
        return {**self._cost(height, width, _backward), **own}

    def macs_useful(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds inside the pattern, by phase: without masked pairs of queries and keys, and padding.

        They are those of the formula, unless the mechanism has a method ``macs_useful(height, width)``.
        """
        return self._cost(height, width, lambda attention, site: _formula(attention, site, "macs_useful"))

    def macs_dense(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds if every phase ``attention`` were full attention, 2·N²·C."""

        def dense(attention: nn.Module, site: Site) -> dict[str, int]:
            cost = dict(_formula(attention, site))
            if "attention" in cost:
                cost["attention"] = 2 * (site.height * site.width) ** 2 * site.dim
            return cost

        return self._cost(height, width, dense)

    def _cost(
        self, height: int, width: int, of_attention: Callable[[nn.Module, Site], dict[str, int]]
    ) -> dict[str, int]:
        cost = self._layout_cost(height, width)
        for site, attention in zip(self.layout.sites(height, width), self.attentions(), strict=True):
            if not hasattr(attention, "macs"):
                raise AttnbenchError(f"{self.mechanism} has no method macs(height, width): no formula")
            for phase, macs in of_attention(attention, site).items():
                cost[phase] = cost.get(phase, 0) + macs
        return cost

    def _layout_cost(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds of the parts besides attention, by phase."""
        layout, sizes = self.layout, self.layout.map_sizes(height, width)
        cost = {"patch_embed": sum(self.patch_embed.macs(height, width)), "mlp": 0, "merging": 0}
        for site, block in zip(layout.sites(height, width), self._blocks(), strict=True):
            for phase, macs in block.macs(site.height, site.width).items():
                cost[phase] = cost.get(phase, 0) + macs
        for stage, size in zip(self.layers[1:], sizes[1:], strict=True):
            cost["merging"] += stage.downsample.macs(*size)
        cost["head"] = layout.dim(len(sizes) - 1) * layout.num_classes
        if self.aux_head is not None:
            cost["aux_head"] = sizes[-1][0] * sizes[-1][1] * cost["head"]
        return cost

    def _blocks(self) -> list[Block]:
        return [block for stage in self.layers for block in stage.blocks]


def _formula(attention: Any, site: Site, method: str = "macs") -> dict[str, int]:
    """What a module declares it costs at a site; ``macs`` where it lacks the other method."""
    formula: Callable[[int, int], dict[str, int]] = getattr(attention, method, None) or attention.macs
    return formula(site.height, site.width)


def _backward(attention: Any, site: Site) -> dict[str, int]:
    if hasattr(attention, "macs_backward"):
        return attention.macs_backward(site.height, site.width)
    forward = _formula(attention, site)
    return {phase: 0 if phase == "routing" else 2 * macs for phase, macs in forward.items()}


def create_model(layout: str, mechanism: str, *, impl: str = "auto", **options: Any) -> Backbone:
    """See :func:`attnbench.create_model`."""
    chosen = get_layout(layout)
    own = {key: options.pop(key) for key in list(options) if key in _LAYOUT_OPTIONS}
    return Backbone(replace(chosen, **own), get(mechanism), impl=impl, options=options)


_LAYOUT_OPTIONS = ("num_classes", "in_chans", "img_size", "drop_path_rate")


def executed_impl(model: "Model") -> str:
    """Implementation that the attention modules run, ``+``-joined where they differ."""
    return "+".join(sorted({str(getattr(attention, "impl", "eager")) for attention in model.attentions()}))


def _init_linear(module: nn.Module) -> None:
    """Swin's initialisation of the linear layers: normal with σ = 0.02, zero bias."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
