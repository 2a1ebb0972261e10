"""QuadTree attention against a reference that walks the tree query by query."""

import math

import pytest
import torch
from torch.nn import functional as F

from attnbench import Site, get
from attnbench.mechanisms.quadtree import quadtree_attention

DEPTHS = ((96, 3, 56, 2), (192, 6, 28, 2), (384, 12, 14, 6), (768, 24, 7, 2))


def build(site, **options):
    torch.manual_seed(0)
    return get("quadtree").build(site, **options).double()


def pool(x, side):
    """Mean of the real tokens of each side × side square of (H, W, C)."""
    rows = [
        [x[y : y + side, c : c + side].mean((0, 1)) for c in range(0, x.shape[1], side)]
        for y in range(0, x.shape[0], side)
    ]
    return torch.stack([torch.stack(row) for row in rows])


def branch(sequential, v):
    """Value branch of type B on (H, W, C), one image: statistics before padding."""
    first, _, halve, second, _, mix = sequential

    def normalise(t, norm):
        t = (t - t.mean()) / (t.var(unbiased=False) + norm.eps).sqrt()
        return F.gelu(t * norm.weight + norm.bias)

    H, W, _ = v.shape
    t = torch.zeros(H + H % 2, W + W % 2, v.shape[2], dtype=v.dtype)
    t[:H, :W] = normalise(v, first)
    t = sum(t[dy::2, dx::2] @ halve.weight[:, :, dy, dx].T for dy in (0, 1) for dx in (0, 1)) + halve.bias
    return normalise(t, second) @ mix.weight[:, :, 0, 0].T + mix.bias


def walk(q, k, v, topk, form):
    """Messages of one head, coarsest first; q, k, v are lists of (H, W, d), finest first."""
    messages, chosen = [], {}
    for level in reversed(range(len(q))):
        H, W, d = q[level].shape
        message, selected = torch.zeros(H, W, d, dtype=q[level].dtype), {}
        for y in range(H):
            for x in range(W):
                if level == len(q) - 1:
                    families = [(1.0, [(a, b) for a in range(H) for b in range(W)])]
                else:
                    families = []
                    for parent_score, (a, b) in chosen[y // 2, x // 2]:
                        children = [(2 * a + i, 2 * b + j) for i in (0, 1) for j in (0, 1)]
                        families.append((parent_score, [c for c in children if c[0] < H and c[1] < W]))
                    if form == "B":
                        families = [(1.0, [c for _, family in families for c in family])]
                scored = []
                for parent_score, family in families:
                    logits = torch.stack([q[level][y, x] @ k[level][c] for c in family]) / math.sqrt(d)
                    scored += zip((parent_score * logits.softmax(0)).tolist(), family, strict=True)
                ranked = sorted(scored, reverse=True)
                selected[y, x] = ranked[:topk] if level else []
                for weight, c in ranked[topk:] if form == "A" and level else ranked:
                    message[y, x] += weight * v[level][c]
        messages.append(message)
        chosen = selected
    return messages


def reference(module, x):
    """The module's output on one image (H, W, C)."""
    q, k, v = (p(x) for p in (module.q_proj, module.k_proj, module.v_proj))
    q, k = ([pool(t, 2**i) for i in range(module.levels)] for t in (q, k))
    if module.form == "A":
        v = [pool(v, 2**i) for i in range(module.levels)]
    else:
        v = [v]
        for sequential in module.value_branches:
            v.append(branch(sequential, v[-1]))
    d = module.head_dim
    heads = [
        walk(*([t[..., h * d : h * d + d] for t in p] for p in (q, k, v)), module.topk, module.form)
        for h in range(module.num_heads)
    ]
    out = torch.zeros_like(x)
    for i, parts in enumerate(zip(*heads, strict=True)):
        message = torch.cat(parts, -1)
        if module.form == "B":
            local = F.conv2d(
                v[-1 - i].permute(2, 0, 1),
                module.lepe[i].weight,
                module.lepe[i].bias,
                padding=1,
                groups=x.shape[2],
            )
            message = (message + local.permute(1, 2, 0)) * module.level_weight.softmax(0)[i]
        side = 2 ** (module.levels - 1 - i)
        for y in range(x.shape[0]):
            for c in range(x.shape[1]):
                out[y, c] += message[y // side, c // side]
    return module.proj(out)


@pytest.mark.parametrize("form", ["A", "B"])
@pytest.mark.parametrize(("size", "levels", "topk"), [((4, 6), 2, 3), ((7, 9), 3, 2), ((1, 5), 3, 8)])
@torch.no_grad()
def test_walks_the_tree(form, size, levels, topk):
    module = build(Site(8, 2, *size), form=form, levels=levels, topk=topk, qkv_bias=True)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x = torch.randn(1, *size, 8, dtype=torch.double)
    torch.testing.assert_close(module(x)[0], reference(module, x[0]))


@torch.no_grad()
def test_selecting_every_key_makes_each_level_of_type_b_full_attention():
    torch.manual_seed(0)
    q, k, v = ([torch.randn(2, 3, *s, 4) for s in ((5, 6), (3, 3), (2, 2))] for _ in range(3))
    for level, message in zip((2, 1, 0), quadtree_attention(q, k, v, topk=99, scale=0.5), strict=True):
        flat = (t[level].flatten(2, 3) for t in (q, k, v))
        full = F.scaled_dot_product_attention(*flat, scale=0.5).view(v[level].shape)
        torch.testing.assert_close(message, full)


@torch.no_grad()
def test_a_single_level_of_type_a_keeps_its_best_keys_unless_asked_to_drop_them():
    site = Site(8, 2, 4, 4)
    kept, dropped = (build(site, form="A", levels=1, drop_unrefined=drop) for drop in (False, True))
    full = get("full").build(site).double()
    full.qkv.weight.copy_(torch.cat([p.weight for p in (kept.q_proj, kept.k_proj, kept.v_proj)]))
    full.qkv.bias.zero_()
    full.proj.load_state_dict(kept.proj.state_dict())
    x = torch.randn(1, 4, 4, 8, dtype=torch.double)
    torch.testing.assert_close(kept(x), full(x))
    assert not torch.allclose(dropped(x), full(x), atol=1e-3)


@pytest.mark.parametrize(("form", "giga"), [("A", 1.5120), ("B", 1.9305)])
def test_total_in_the_swin_t_layout(form, giga):
    total = 0
    for stage, (dim, heads, side, depth) in enumerate(DEPTHS):
        with torch.device("meta"):
            module = get("quadtree").build(Site(dim, heads, side, side, stage), form=form)
        total += depth * sum(module.macs(side, side).values())
    assert round(total / 1e9, 4) == giga


@pytest.mark.parametrize("option", [{"levels": 0}, {"topk": 0}, {"form": "C"}])
def test_refuses_options_that_mean_nothing(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        get("quadtree").load()(Site(8, 2, 4, 4), **option)
