"""Official modules that installed packages hold, each with our module of the same weights.

Every one is a function of a place in the Swin-T layout that gives a pair.
The pairs are equal: :func:`attnbench.harness.versus.race.race` looks.
"""

import importlib
from typing import Any

from torch import nn

from attnbench import registry
from attnbench.errors import ImplementationError
from attnbench.harness.versus.calls import as_sequence
from attnbench.harness.versus.pair import Pair, Reference, copy_weights
from attnbench.registry import Site


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
    return Pair(official, own, as_sequence(official, [site.height, site.width]))


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
    return Pair(official, own, as_sequence(official, size))


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


INSTALLED: dict[str, Reference] = {
    "timm's Swin": Reference("shifted_window", timm_swin),
    "torchvision's Swin": Reference("shifted_window", torchvision_swin),
    "timm's MaxViT": Reference("block_grid", timm_maxvit),
    "timm's PVT v2": Reference("spatial_reduction", timm_pvt),
    "timm's Twins": Reference("spatially_separable", timm_twins),
    "natten": Reference("neighborhood", natten),
}
"""By title."""


def _own(name: str, site: Site, **options: Any) -> nn.Module:
    return registry.get(name).build(site, **options)


def _copy(official: nn.Module, own: nn.Module, names: dict[str, str]) -> None:
    """The same random weights for both; names are the same but for those given."""
    copy_weights(official, own, lambda name: names.get(name, name))
