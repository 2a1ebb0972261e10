"""Official code in clones of the authors' repositories, each beside our module of the same weights.

One function for each, from the folder of clones and a place in the Swin-T layout to a pair. Our module is
built by its ``from_official``, which the golden tensors prove. Options are those of the official models at
this stage; docs/speed.md has the commits that were tried.
"""

import functools
import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attnbench.errors import ImplementationError
from attnbench.harness.versus.calls import as_sequence, attention_of
from attnbench.harness.versus.clones import load
from attnbench.harness.versus.pair import STAGES, Pair, Reference
from attnbench.harness.versus.ported import even, own, pair
from attnbench.harness.versus.quadtree_by_gather import quadtree
from attnbench.registry import Site

Build = Callable[[Path, Site], Pair]


def bra_legacy(folder: Path, site: Site) -> Pair:
    """BiFormer's ``BiLevelRoutingAttention``."""
    kwargs = _routing(site)
    official = load(folder, "rayleizhu/BiFormer", "ops/bra_legacy.py").BiLevelRoutingAttention(**kwargs)
    return pair(official, own("bra", "bra_legacy", official, site, kwargs))


def bra_nchw(folder: Path, site: Site) -> Pair:
    """BiFormer's ``nchwBRA``."""
    kwargs = _routing(site)
    official = load(folder, "rayleizhu/BiFormer", "ops/bra_nchw.py").nchwBRA(**kwargs)
    return pair(official, own("bra", "bra_nchw", official, site, kwargs), channels_first=True)


def _routing(site: Site) -> dict[str, int]:
    return dict(dim=site.dim, num_heads=site.num_heads, n_win=7, topk=(1, 4, 16)[site.stage], side_dwconv=5)


def cswin(folder: Path, site: Site) -> Pair:
    """The attention of a ``CSWinBlock``."""
    site = even(site)
    kwargs = dict(
        dim=site.dim,
        reso=site.height,
        num_heads=site.num_heads,
        split_size=(1, 2, 7, 7)[site.stage],
        qkv_bias=True,
        last_stage=site.stage == 3,
    )
    block = load(folder, "microsoft/CSWin-Transformer", "models/cswin.py").CSWinBlock(**kwargs)
    run = attention_of(block)
    return pair(block, own("cross_shaped", "cswin_block_attention", block, site, kwargs), run)


def crossformer(folder: Path, site: Site) -> Pair:
    """The attention of a ``CrossFormerBlock``: short distances in even blocks, long ones in odd ones."""
    interval = (8, 4, 2, 1)[site.stage]
    kwargs: dict[str, Any] = dict(dim=site.dim, num_heads=site.num_heads, group_size=7)
    kwargs["lsda_flag"] = site.block % 2 if site.stage < 3 else 0
    size = (site.height, site.width)
    cls = load(folder, "cheerss/CrossFormer", "models/crossformer.py").CrossFormerBlock
    later = {"interval": interval} if "interval" in inspect.signature(cls).parameters else {}
    block = cls(input_resolution=size, **kwargs, **later)
    sized = size if "H" in inspect.signature(block.forward).parameters else ()
    ours = own("long_short_distance", "crossformer_lsda", block, site, {**kwargs, "interval": interval})
    return pair(block, ours, attention_of(block, *sized))


def shunted(folder: Path, site: Site) -> Pair:
    """Shunted Transformer's ``Attention``."""
    site = even(site)
    ratio = (8, 4, 2, 1)[site.stage]
    kwargs = dict(dim=site.dim, num_heads=site.num_heads, qkv_bias=True, sr_ratio=ratio)
    official = load(folder, "OliverRensu/Shunted-Transformer", "SSA.py").Attention(**kwargs)
    return pair(
        official,
        own("shunted", "shunted", official, site, kwargs),
        as_sequence(official, site.height, site.width),
    )


def scalable(folder: Path, site: Site, kind: str = "SSA") -> Pair:
    """ScalableViT's ``SSA`` or ``IWSA``."""
    file = "image_classification/models/scalablevit.py"
    kwargs: dict[str, Any] = dict(dim=site.dim, num_heads=site.num_heads, qkv_bias=True)
    if kind == "SSA":
        kwargs |= dict(sr_ratio=(8, 4, 2, 1)[site.stage], c_ratio=(1.25, 1.25, 1.25, 1.0)[site.stage])
    else:
        kwargs |= dict(ws=7)
    official = getattr(load(folder, "Yangr116/ScalableViT", file), kind)(**kwargs)
    ours = own("interactive_window", f"scalablevit_{kind.lower()}", official, site, kwargs)
    return pair(official, ours, as_sequence(official, site.height, site.width))


def wavevit(folder: Path, site: Site) -> Pair:
    """Wave-ViT's ``WaveAttention``, and its ``Attention`` from the third stage on."""
    module = load(folder, "YehLi/ImageNetModel", "classification/wavevit.py", root="classification")
    kwargs: dict[str, Any] = dict(dim=site.dim, num_heads=site.num_heads)
    golden, cls = "wavevit_full", module.Attention
    if site.stage < 2:
        golden, cls = "wavevit_wave", module.WaveAttention
        kwargs["sr_ratio"] = (4, 2)[site.stage]
    official = cls(**kwargs)
    call = as_sequence(official, site.height, site.width)
    wavelets = [m for m in official.modules() if any(b.dtype == torch.float16 for b in m.buffers(False))]

    def run(x: Tensor) -> Tensor:
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        for wavelet in wavelets:  # float16 as they are written, and not cast for their own gradients
            if next(wavelet.buffers()).dtype != dtype:
                wavelet.to(dtype)
        return call(x)

    return pair(official, own("wavelet", golden, official, site, kwargs), run)


def uniformer(folder: Path, site: Site) -> Pair:
    """The three convolutions of UniFormer's ``CBlock``, and ``Attention`` from the third stage on."""
    module = load(folder, "Sense-X/UniFormer", "image_classification/models/uniformer.py")
    kwargs: dict[str, Any] = dict(dim=site.dim, num_heads=site.num_heads, qkv_bias=True)
    if site.stage >= 2:
        official = module.Attention(**kwargs)
        ours = own("local_global", "uniformer_global", official, site, kwargs)
        return pair(official, ours, as_sequence(official))
    block = module.CBlock(**kwargs)
    local = nn.ModuleDict({name: getattr(block, name) for name in ("conv1", "attn", "conv2")})
    ours = own("local_global", "uniformer_local", local, site, kwargs)
    return pair(local, ours, lambda x: block.conv2(block.attn(block.conv1(x))), channels_first=True)


def dat(folder: Path, site: Site) -> Pair:
    """DAT's ``DAttentionBaseline``, of the first version or of DAT++."""
    cls = load(folder, "LeapLabTHU/DAT", "models/dat_blocks.py").DAttentionBaseline
    size = (site.height, site.width)
    kwargs: dict[str, Any] = dict(
        q_size=size,
        kv_size=size,
        n_heads=site.num_heads,
        n_head_channels=site.head_dim,
        n_groups=(3, 6)[site.stage - 2],
        attn_drop=0.0,
        proj_drop=0.0,
        stride=1,
        offset_range_factor=2,
        use_pe=True,
        dwc_pe=False,
        no_off=False,
        fixed_pe=False,
    )
    later = "ksize" in inspect.signature(cls).parameters
    kwargs |= {"ksize": (5, 3)[site.stage - 2], "log_cpb": False} if later else {"stage_idx": site.stage}
    official = cls(**kwargs)
    ours = own("deformable", "dat_pp" if later else "dat_v1", official, site, kwargs)
    return pair(official, ours, lambda x: official(x)[0], channels_first=True)


def ccnet(folder: Path, site: Site) -> Pair:
    """CCNet's ``CrissCrossAttention``; its diagonal of infinities, which is made on CUDA, is replaced."""
    official = load(folder, "speedinghzl/CCNet", "cc_attention/functions.py").CrissCrossAttention(site.dim)

    def infinities(batch: int, height: int, width: int) -> Tensor:
        diagonal = torch.full((height,), float("inf"), device=official.gamma.device)
        return -torch.diag(diagonal).unsqueeze(0).repeat(batch * width, 1, 1)

    official.INF = infinities
    ours = own("criss_cross", "ccnet_criss_cross", official, site, {"in_dim": site.dim})
    return pair(official, ours, channels_first=True)


def axial(folder: Path, site: Site) -> Pair:
    """lucidrains' ``AxialAttention``, which adds both axes."""
    try:
        package = importlib.import_module("axial_attention")
    except ImportError as error:
        raise ImplementationError(f"no axial_attention ({error}): pip install axial-attention") from error
    kwargs = dict(dim=site.dim, num_dimensions=2, heads=site.num_heads, dim_index=-1, sum_axial_out=True)
    official = package.AxialAttention(**kwargs)
    return pair(official, own("sequential_axial", "axial_lucidrains", official, site, kwargs))


_BUILDERS: dict[str, tuple[str, Build, tuple[int, ...]]] = {
    "BiFormer's BRA (legacy)": ("bra", bra_legacy, (0, 1, 2)),
    "BiFormer's BRA (nchw)": ("bra", bra_nchw, (0, 1, 2)),
    "CSWin": ("cross_shaped", cswin, STAGES),
    "CrossFormer": ("long_short_distance", crossformer, STAGES),
    "DAT": ("deformable", dat, (2, 3)),
    "Shunted Transformer": ("shunted", shunted, STAGES),
    "ScalableViT's SSA": ("interactive_window", scalable, STAGES),
    "ScalableViT's IWSA": ("interactive_window", functools.partial(scalable, kind="IWSA"), (0, 1, 2)),
    "Wave-ViT": ("wavelet", wavevit, STAGES),
    "UniFormer": ("local_global", uniformer, STAGES),
    "QuadTree (CUDA parts by torch)": ("quadtree", quadtree, STAGES),
    "CCNet": ("criss_cross", ccnet, STAGES),
    "axial-attention": ("sequential_axial", axial, STAGES),
}


def cloned(folder: Path) -> dict[str, Reference]:
    """The references of a folder of clones, by title; one whose clone is absent says so when it is built."""
    return {
        title: Reference(mechanism, functools.partial(build, folder), stages)
        for title, (mechanism, build, stages) in _BUILDERS.items()
    }
