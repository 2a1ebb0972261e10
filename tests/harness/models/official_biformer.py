"""BiFormer by the names of its authors' state dicts: their names and shapes, and the function, naively.

Written from the definition (shared facts, paper) to compare with: dense attention under a mask of the routes,
NCHW convolutions, nothing shared with the modules under test. Names are those of rayleizhu/BiFormer at
1697bbb, classes BiFormerSTL ("stl"), nchwBiFormerSTL ("stl_nchw") and BiFormer ("biformer"); there is no
official BiFormer in nchw form, "biformer_nchw" combines the two.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from attnbench.layouts import Layout


def names_and_shapes(form: str, layout: Layout) -> dict[str, tuple[int, ...]]:
    """Every tensor of an official state dict."""
    stl, nchw = form.startswith("stl"), form.endswith("nchw")
    one = (1, 1) if nchw else ()  # linear layers are 1 × 1 convolutions in the nchw form
    shapes: dict[str, tuple[int, ...]] = {}

    def layer(name: str, *shape: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = shape
        if bias:
            shapes[f"{name}.bias"] = shape[:1]

    def batch_norm(name: str, dim: int) -> None:
        layer(name, dim)
        shapes.update({f"{name}.running_mean": (dim,), f"{name}.running_var": (dim,)})
        shapes[f"{name}.num_batches_tracked"] = ()

    dims = [layout.dim(stage) for stage in range(4)]
    if stl:
        layer("downsample_layers.0.0", dims[0], layout.in_chans, 4, 4)
        batch_norm("downsample_layers.0.1", dims[0])
    else:
        layer("downsample_layers.0.0", dims[0] // 2, layout.in_chans, 3, 3)
        batch_norm("downsample_layers.0.1", dims[0] // 2)
        layer("downsample_layers.0.3", dims[0], dims[0] // 2, 3, 3)
        batch_norm("downsample_layers.0.4", dims[0])
    for stage in (1, 2, 3):
        side, conv, norm = (2, 1, 0) if stl else (3, 0, 1)
        layer(f"downsample_layers.{stage}.{conv}", dims[stage], dims[stage - 1], side, side)
        batch_norm(f"downsample_layers.{stage}.{norm}", dims[stage - 1 if stl else stage])
    for stage, depth in enumerate(layout.depths):
        for block in range(depth):
            prefix, c = f"stages.{stage}.{'blocks.' if stl else ''}{block}", dims[stage]
            if layout.position_kernel:
                layer(f"{prefix}.pos_embed", c, 1, 3, 3)
            layer(f"{prefix}.norm1", c)
            layer(f"{prefix}.norm2", c)
            if stage == 3:
                layer(f"{prefix}.attn.qkv", 3 * c, c, *one, bias=False)
                layer(f"{prefix}.attn.proj", c, c, *one)
            else:
                layer(f"{prefix}.attn.{'qkv_linear' if nchw else 'qkv.qkv'}", 3 * c, c, *one)
                layer(f"{prefix}.attn.{'output_linear' if nchw else 'wo'}", c, c, *one)
            layer(f"{prefix}.attn.lepe", c, 1, 5, 5)
            hidden = int(c * layout.mlp_ratio)
            layer(f"{prefix}.mlp.0", hidden, c, *one)
            layer(f"{prefix}.mlp.{2 if stl else 3}", c, hidden, *one)
    batch_norm("norm", dims[3])
    layer("head", layout.num_classes, dims[3])
    return shapes


def state_dict(form: str, layout: Layout, seed: int = 0) -> dict[str, Tensor]:
    """Seeded values for all of them, large enough for the routes to matter."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in names_and_shapes(form, layout).items():
        value = torch.randn(shape, generator=generator)
        if name.endswith("num_batches_tracked"):
            value = torch.tensor(7)
        elif name.endswith("running_var"):
            value = value.abs() + 0.5
        elif len(shape) > 1:
            value = value * math.prod(shape[1:]) ** -0.5
        state[name] = value
    return state


def logits(state: dict[str, Tensor], form: str, layout: Layout, images: Tensor) -> Tensor:
    """Images (B, in_chans, 224, 224) to logits (B, num_classes), as the official models map them."""
    stl, nchw = form.startswith("stl"), form.endswith("nchw")

    def batch_norm(x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (
            state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, var, weight, bias, eps=1e-5)

    def conv(x: Tensor, name: str, **options: int) -> Tensor:
        return F.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), **options)

    x = images
    for stage, depth in enumerate(layout.depths):
        name = f"downsample_layers.{stage}"
        if stl and stage == 0:
            x = batch_norm(conv(x, f"{name}.0", stride=4), f"{name}.1")
        elif stl:
            x = conv(batch_norm(x, f"{name}.0"), f"{name}.1", stride=2)
        else:
            x = batch_norm(conv(x, f"{name}.0", stride=2, padding=1), f"{name}.1")
            if stage == 0:
                x = batch_norm(conv(F.gelu(x), f"{name}.3", stride=2, padding=1), f"{name}.4")
        for block in range(depth):
            prefix = f"stages.{stage}.{'blocks.' if stl else ''}{block}"
            if layout.position_kernel:
                x = x + conv(x, f"{prefix}.pos_embed", padding=1, groups=x.shape[1])
            x = _block(x, state, prefix, stage, layout.head_dim, lepe_of_v=nchw or stage < 3)
    x = batch_norm(x, "norm").mean((2, 3))
    return F.linear(x, state["head.weight"], state["head.bias"])


def _block(
    x: Tensor, state: dict[str, Tensor], prefix: str, stage: int, head_dim: int, lepe_of_v: bool
) -> Tensor:
    """One block on (B, C, H, W), before and after."""
    C = x.shape[1]

    def linear(y: Tensor, *names: str) -> Tensor:
        name = next(f"{prefix}.{n}" for n in names if f"{prefix}.{n}.weight" in state)
        return F.linear(y, state[f"{name}.weight"].flatten(1), state.get(f"{name}.bias"))

    def norm(y: Tensor, name: str) -> Tensor:
        return F.layer_norm(y, (C,), state[f"{prefix}.{name}.weight"], state[f"{prefix}.{name}.bias"], 1e-6)

    x = x.permute(0, 2, 3, 1)
    y = norm(x, "norm1")
    q, k, v = linear(y, "attn.qkv.qkv", "attn.qkv_linear", "attn.qkv").chunk(3, -1)
    heads, scale = (8, (C // 8) ** -0.5) if stage == 3 else (C // head_dim, C**-0.5)
    out = _attention(q, k, v, heads, scale, (1, 4, 16, None)[stage])
    weight, bias = state[f"{prefix}.attn.lepe.weight"], state[f"{prefix}.attn.lepe.bias"]
    local = (v if lepe_of_v else y).permute(0, 3, 1, 2)
    out = out + F.conv2d(local, weight, bias, padding=2, groups=C).permute(0, 2, 3, 1)
    x = x + linear(out, "attn.wo", "attn.output_linear", "attn.proj")
    hidden = F.gelu(linear(norm(x, "norm2"), "mlp.0"))
    return (x + linear(hidden, "mlp.2", "mlp.3")).permute(0, 3, 1, 2)


def _attention(q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float, topk: int | None) -> Tensor:
    """Attention of maps (B, H, W, C) over all tokens, but those of regions that are not routed to."""
    B, H, W, C = q.shape
    q, k, v = (t.flatten(1, 2) for t in (q, k, v))
    mask = torch.ones(B, H * W, H * W, dtype=torch.bool)
    if topk is not None:
        rows, columns = torch.arange(H) // (H // 7), torch.arange(W) // (W // 7)
        member = F.one_hot((rows[:, None] * 7 + columns).flatten(), 49).to(q.dtype)  # (N, 49)
        mean_q, mean_k = (member.T @ t / (H * W / 49) for t in (q, k))
        routed = torch.zeros(B, 49, 49).scatter(2, (mean_q @ mean_k.mT).topk(topk).indices, 1.0)
        mask = (member @ routed.to(q.dtype) @ member.T) > 0
    q, k, v = (t.unflatten(2, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    weights = (q @ k.mT * scale).masked_fill(~mask[:, None], float("-inf")).softmax(-1)
    return (weights @ v).transpose(1, 2).reshape(B, H, W, C)
