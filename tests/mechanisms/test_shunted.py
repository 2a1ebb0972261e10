"""Shunted attention against a dense reference, head by head."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnbench import Site, get


def build(site: Site, **options: object) -> nn.Module:
    torch.manual_seed(0)
    module = get("shunted").build(site, impl="eager", **options).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


def reduced(x: Tensor, weight: Tensor, bias: Tensor, r: int) -> Tensor:
    """r × r convolution with stride r of (H, W, C), patch by patch; what lies outside adds nothing."""
    rows = []
    for y in range(0, x.shape[0], r):
        row = []
        for c in range(0, x.shape[1], r):
            patch = x[y : y + r, c : c + r]
            kernel = weight[:, :, : patch.shape[0], : patch.shape[1]]
            row.append(torch.einsum("yxi,oiyx->o", patch, kernel) + bias)
        rows.append(torch.stack(row))
    return torch.stack(rows)


def nearby(v: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """3 × 3 depth-wise convolution of (H, W, C), token by token."""
    out = torch.empty_like(v)
    for y in range(v.shape[0]):
        for x in range(v.shape[1]):
            out[y, x] = bias
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    if 0 <= y + dy < v.shape[0] and 0 <= x + dx < v.shape[1]:
                        out[y, x] += weight[:, 0, dy + 1, dx + 1] * v[y + dy, x + dx]
    return out


def reference(x: Tensor, p: dict[str, Tensor], heads: int, ratio: int) -> Tensor:
    """Output on one image (H, W, C)."""
    C = x.shape[2]
    d = C // heads
    q = x @ p["q.weight"].T + p["q.bias"]
    ratios = [ratio] * (heads // 2) + [ratio // 2] * (heads - heads // 2)
    groups = sorted(set(ratios), reverse=True)
    out = torch.empty_like(x)
    for head, r in enumerate(ratios):
        name = f"branches.{groups.index(r)}."
        first, width = ratios.index(r), ratios.count(r) * d
        y = reduced(x, p[name + "reduce.weight"], p[name + "reduce.bias"], r)
        y = F.gelu(F.layer_norm(y, (C,), p[name + "norm.weight"], p[name + "norm.bias"]))
        kv = y @ p[name + "kv.weight"].T + p[name + "kv.bias"]
        k, v = kv[..., :width], kv[..., width:]
        v = v + nearby(v, p[name + "local.weight"], p[name + "local.bias"])
        own = slice((head - first) * d, (head - first + 1) * d)
        k, v = k[..., own].reshape(-1, d), v[..., own].reshape(-1, d)
        logits = q[..., head * d : head * d + d] @ k.T / d**0.5
        out[..., head * d : head * d + d] = logits.softmax(-1) @ v
    return out @ p["proj.weight"].T + p["proj.bias"]


@pytest.mark.parametrize(
    ("size", "heads", "ratio"), [((8, 8), 4, 4), ((5, 7), 3, 2), ((3, 2), 3, 8), ((6, 5), 1, 4)]
)
@torch.no_grad()
def test_equals_a_dense_reference(size: tuple[int, int], heads: int, ratio: int) -> None:
    module = build(Site(12, heads, *size), sr_ratio=ratio)
    x = torch.randn(1, *size, 12, dtype=torch.double)
    expected = reference(x[0], module.state_dict(), heads, ratio)
    torch.testing.assert_close(module(x)[0], expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_without_reduction_it_is_full_attention_plus_a_local_term() -> None:
    module, site = build(Site(8, 2, 5, 6), sr_ratio=1), Site(8, 2, 5, 6)
    full = get("full").build(site, impl="eager", lepe_kernel=3).double()
    p, name = module.state_dict(), "branches.0."
    joined = {f"qkv.{e}": torch.cat([p[f"q.{e}"], p[f"{name}kv.{e}"]]) for e in ("weight", "bias")}
    joined |= {f"lepe.{e}": p[f"{name}local.{e}"] for e in ("weight", "bias")}
    full.load_state_dict(joined | {f"proj.{e}": p[f"proj.{e}"] for e in ("weight", "bias")})
    x = torch.randn(2, 5, 6, 8, dtype=torch.double)
    torch.testing.assert_close(module(x), full(x), rtol=0, atol=1e-12)


def test_the_finer_keys_get_the_odd_head() -> None:
    branches = build(Site(12, 3, 8, 8), sr_ratio=4).branches
    assert [(b.num_heads, b.ratio) for b in branches] == [(1, 4), (2, 2)]


@pytest.mark.parametrize("ratio", [0, 3])
def test_refuses_a_ratio_that_cannot_be_halved(ratio: int) -> None:
    with pytest.raises(ValueError, match="sr_ratio must be 1 or even"):
        get("shunted").load()(Site(8, 2, 4, 4), sr_ratio=ratio)
