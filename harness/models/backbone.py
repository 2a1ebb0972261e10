"""The Swin-T layout with a hole where attention goes.

With ``shifted_window`` in the hole it is timm's ``swin_tiny_patch4_window7_224``: the parts are timm's
and so are the parameter names (see :mod:`attnbench.harness.models.checkpoints`).
Source: Liu et al., 2021, "Swin Transformer", arXiv:2103.14030, section 3.1.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from timm.layers import ClassifierHead, DropPath, Mlp, PatchEmbed
from timm.models.swin_transformer import PatchMerging
from torch import Tensor, nn

from attnbench.errors import AttnbenchError
from attnbench.layouts import Layout, get_layout
from attnbench.registry import MechanismSpec, Site, get

if TYPE_CHECKING:
    from attnbench.harness.models.build import Model


class Block(nn.Module):
    """Pre-norm residual block: attention, then MLP. Maps (B, H, W, C) to (B, H, W, C)."""

    def __init__(self, dim: int, attention: nn.Module, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = attention
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Stage(nn.Module):
    """Patch merging (but in the first stage), then blocks."""

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
        layout: channels, depths and sizes.
        spec: the mechanism.
        impl: implementation of the mechanism, ``auto`` for its first.
        options: options of the mechanism; a list gives one value per stage.

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
        self.patch_embed = PatchEmbed(
            img_size=layout.img_size,
            patch_size=layout.patch_size,
            in_chans=layout.in_chans,
            embed_dim=layout.embed_dim,
            norm_layer=nn.LayerNorm,
            output_fmt="NHWC",
            strict_img_size=False,
            dynamic_img_pad=True,
        )
        rates = torch.linspace(0, layout.drop_path_rate, sum(layout.depths), device="cpu").tolist()
        stages: list[list[Block]] = [[] for _ in layout.depths]
        sites: list[Site] = list(layout.sites(layout.img_size, layout.img_size))
        for site, rate in zip(sites, rates, strict=True):
            attention = spec.build(site, impl=impl, **(options or {}))
            stages[site.stage].append(Block(site.dim, attention, layout.mlp_ratio, rate))
        self.layers = nn.Sequential(
            *(
                Stage(PatchMerging(layout.dim(i - 1)) if i else nn.Identity(), blocks)
                for i, blocks in enumerate(stages)
            )
        )
        features = layout.dim(len(layout.depths) - 1)
        self.norm = nn.LayerNorm(features)
        self.head = ClassifierHead(features, layout.num_classes, pool_type="avg", input_fmt="NHWC")
        self.apply(_init_linear)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, in_chans, height, width) to logits (B, num_classes)."""
        return self.head(self.norm(self.layers(self.patch_embed(x))))

    def attentions(self) -> list[nn.Module]:
        """The attention modules, in order."""
        return [module.attn for module in self.modules() if isinstance(module, Block)]

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
        cost = self._cost(height, width, _backward)
        forward = self.macs(height, width)
        twice = {phase: 2 * forward[phase] for phase in ("mlp", "merging", "head")}
        return {**cost, **twice, "patch_embed": forward["patch_embed"]}

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
        layout, sizes = self.layout, self.layout.map_sizes(height, width)
        patch = layout.in_chans * layout.patch_size**2
        cost = {"patch_embed": sizes[0][0] * sizes[0][1] * patch * layout.embed_dim, "mlp": 0, "merging": 0}
        for site, attention in zip(layout.sites(height, width), self.attentions(), strict=True):
            if not hasattr(attention, "macs"):
                raise AttnbenchError(f"{self.mechanism} has no method macs(height, width): no formula")
            for phase, macs in of_attention(attention, site).items():
                cost[phase] = cost.get(phase, 0) + macs
            cost["mlp"] += 2 * site.height * site.width * site.dim * int(site.dim * layout.mlp_ratio)
        for stage, (rows, columns) in enumerate(sizes[1:], start=1):
            cost["merging"] += rows * columns * 4 * layout.dim(stage - 1) * layout.dim(stage)
        cost["head"] = layout.dim(len(sizes) - 1) * layout.num_classes
        return cost


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
