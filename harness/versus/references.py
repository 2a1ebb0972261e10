"""Official modules that installed packages hold, each with our module of the same weights.

Every one is a function of a place in the Swin-T layout that gives a :class:`Pair`.
The pairs are equal: :func:`attnbench.harness.versus.race.race` looks.
"""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attnbench import registry
from attnbench.errors import ImplementationError
from attnbench.layouts import get_layout
from attnbench.registry import Site


@dataclass(frozen=True)
class Pair:
    """Two modules that compute the same, as functions of a map (B, H, W, C).

    Args:
        official, own: the modules, whose parameters are learned.
        run_official: how the official one is called on such a map.
    """

    official: nn.Module
    own: nn.Module
    run_official: Callable[[Tensor], Tensor]


def sites() -> Iterator[Site]:
    """The first two places of each stage of the Swin-T layout at 224 × 224 px."""
    yield from (site for site in get_layout("swin_t").sites(224, 224) if site.block < 2)


def timm_swin(site: Site) -> Pair:
    """``SwinTransformerBlock._attn`` of timm."""
    swin = importlib.import_module("timm.models.swin_transformer")
    size = (site.height, site.width)
    shift = 3 if site.block % 2 and min(size) > 7 else 0
    block = swin.SwinTransformerBlock(site.dim, size, site.num_heads, window_size=7, shift_size=shift)
    own = _own("shifted_window", site, padding="official")
    _copy(block.attn, own, {"relative_position_bias_table": "bias_table"})
    return Pair(block.attn, own, block._attn)


def torchvision_swin(site: Site) -> Pair:
    """``ShiftedWindowAttention`` of torchvision."""
    swin = importlib.import_module("torchvision.models.swin_transformer")
    shift = [3 if site.block % 2 and site.height > 7 else 0] * 2
    official = swin.ShiftedWindowAttention(site.dim, [7, 7], shift, site.num_heads)
    own = _own("shifted_window", site)
    _copy(official, own, {"relative_position_bias_table": "bias_table"})
    return Pair(official, own, official)


def timm_maxvit(site: Site) -> Pair:
    """Block and grid attention of timm's MaxViT."""
    maxvit = importlib.import_module("timm.models.maxxvit")
    config = maxvit.MaxxVitTransformerCfg(
        dim_head=site.dim // site.num_heads, window_size=(7, 7), grid_size=(7, 7), rel_pos_type="bias_tf"
    )
    kind = ("block", "grid")[site.block % 2]
    official = maxvit.PartitionAttentionCl(site.dim, kind, cfg=config)
    own = _own("block_grid", site, head_first=True)
    _copy(official.attn, own, {"rel_pos.relative_position_bias_table": "bias_table"})
    return Pair(official.attn, own, official._partition_attn)


def timm_pvt(site: Site) -> Pair:
    """``Attention`` of timm's PVT v2."""
    pvt = importlib.import_module("timm.models.pvt_v2")
    ratio = (8, 4, 2, 1)[site.stage]
    official = pvt.Attention(site.dim, site.num_heads, sr_ratio=ratio)
    own = _own("spatial_reduction", site, padding="official")
    _copy(official, own, {})
    return Pair(official, own, _as_sequence(official, [site.height, site.width]))


def timm_twins(site: Site) -> Pair:
    """``LocallyGroupedAttn`` and ``GlobalSubSampleAttn`` of timm's Twins."""
    twins = importlib.import_module("timm.models.twins")
    size: Any = (site.height, site.width)
    if site.block % 2:
        official = twins.GlobalSubSampleAttn(site.dim, site.num_heads, sr_ratio=(8, 4, 2, 1)[site.stage])
    else:
        official = twins.LocallyGroupedAttn(site.dim, site.num_heads, ws=7)
    own = _own("spatially_separable", site, padding="official")
    _copy(official, own.get_submodule("attention"), {})
    return Pair(official, own, _as_sequence(official, size))


def natten(site: Site) -> Pair:
    """``NeighborhoodAttention2D`` of natten, which has no position bias and, on a CPU, no gradients."""
    try:
        package = importlib.import_module("natten")
    except ImportError as error:
        raise ImplementationError(f"natten does not import ({error})") from error
    official = package.NeighborhoodAttention2D(site.dim, site.num_heads, kernel_size=7)
    own = _own("neighborhood", site, position_bias=False)
    _copy(official, own, {})
    return Pair(official, own, official)


REFERENCES: dict[str, tuple[str, Callable[[Site], Pair]]] = {
    "timm's Swin": ("shifted_window", timm_swin),
    "torchvision's Swin": ("shifted_window", torchvision_swin),
    "timm's MaxViT": ("block_grid", timm_maxvit),
    "timm's PVT v2": ("spatial_reduction", timm_pvt),
    "timm's Twins": ("spatially_separable", timm_twins),
    "natten": ("neighborhood", natten),
}
"""By title: the mechanism, and what builds both."""


def _own(name: str, site: Site, **options: Any) -> nn.Module:
    return registry.get(name).build(site, **options)


def _as_sequence(official: nn.Module, size: Any) -> Callable[[Tensor], Tensor]:
    """A module of (B, N, C) and the map's size, as a function of the map."""

    def run(x: Tensor) -> Tensor:
        return official(x.flatten(1, 2), size).view(x.shape)

    return run


def _copy(official: nn.Module, own: nn.Module, names: dict[str, str]) -> None:
    """Give our module random weights of the official one's; names are the same but for those given."""
    with torch.no_grad():
        for parameter in official.parameters():
            parameter.normal_(std=0.05)
    parameters = {names.get(name, name): value for name, value in official.named_parameters()}
    own.load_state_dict({name: parameters[name].detach().clone() for name in own.state_dict()})
