"""PVT v2's spatial reduction: its limits, its linear form and its cost."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from attnbench import AttnbenchError, Site, get
from attnbench.layouts.swin import SWIN_T


def build(site: Site, **options: object) -> nn.Module:
    torch.manual_seed(0)
    module = get("spatial_reduction").build(site, impl="eager", **options).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


def test_ratio_one_is_full_attention() -> None:
    module = build(Site(8, 2, 5, 6), sr_ratio=1)
    full = get("full").build(Site(8, 2, 5, 6), impl="eager").double()
    p = module.state_dict()
    joined = {f"qkv.{end}": torch.cat([p[f"q.{end}"], p[f"kv.{end}"]]) for end in ("weight", "bias")}
    full.load_state_dict(joined | {k: v for k, v in p.items() if k.startswith("proj")})
    x = torch.randn(2, 5, 6, 8, dtype=torch.double)
    torch.testing.assert_close(module(x), full(x), rtol=0, atol=1e-12)


def test_every_block_reduces_and_equals_the_global_half_of_twins() -> None:
    for block in range(2):
        site = Site(8, 2, 9, 9, block=block)
        module = build(site, sr_ratio=2)
        twins = get("spatially_separable").build(site, impl="eager", kind="gsa", sr_ratio=2).double()
        twins.load_state_dict({f"attention.{k}": v for k, v in module.state_dict().items()})
        x = torch.randn(1, 9, 7, 8, dtype=torch.double)
        assert torch.equal(module(x), twins(x))


@pytest.mark.parametrize("size", [(14, 14), (9, 16), (3, 2)])
def test_linear_pools_to_49_keys(size: tuple[int, int]) -> None:
    module = build(Site(8, 1, 14, 14), linear=True)
    H, W = size
    x = torch.randn(1, H, W, 8, dtype=torch.double)
    p = dict(module.named_parameters())
    pooled = []
    for i in range(7):
        for j in range(7):
            rows = slice(i * H // 7, -(-(i + 1) * H // 7))
            columns = slice(j * W // 7, -(-(j + 1) * W // 7))
            pooled.append(x[0, rows, columns].mean((0, 1)))
    keys = torch.stack(pooled) @ p["sr.weight"][:, :, 0, 0].T + p["sr.bias"]
    keys = F.gelu(F.layer_norm(keys, (8,), p["norm.weight"], p["norm.bias"]))
    k, v = (keys @ p["kv.weight"].T + p["kv.bias"]).chunk(2, 1)
    q = x[0].flatten(0, 1) @ p["q.weight"].T + p["q.bias"]
    out = (q @ k.T / 8**0.5).softmax(1) @ v
    expected = out @ p["proj.weight"].T + p["proj.bias"]
    torch.testing.assert_close(module(x)[0].flatten(0, 1), expected, rtol=0, atol=1e-12)


def test_official_padding_drops_trailing_tokens_from_the_keys() -> None:
    x = torch.randn(1, 5, 4, 8, dtype=torch.double)
    changed = x.clone()
    changed[0, 4] += 1  # the row that does not fill a 2 x 2 patch
    for padding, seen in (("official", False), ("masked", True)):
        module = build(Site(8, 2, 4, 4), sr_ratio=2, padding=padding)
        assert torch.equal(module(x)[0, :4], module(changed)[0, :4]) is not seen


@pytest.mark.parametrize(("linear", "total"), [(False, 1_334_129_664), (True, 1_150_786_560)])
def test_total_in_the_swin_layout(linear: bool, total: int) -> None:
    with torch.device("meta"):
        modules = [(get("spatial_reduction").build(s, linear=linear), s) for s in SWIN_T.sites(224, 224)]
    assert sum(sum(m.macs(s.height, s.width).values()) for m, s in modules) == total


def test_refuses_what_it_cannot_run() -> None:
    with pytest.raises(AttnbenchError, match="sr_ratio must be positive"):
        build(Site(8, 2, 4, 4), sr_ratio=-1)
    with pytest.raises(AttnbenchError, match="padding must be"):
        build(Site(8, 2, 4, 4), padding="zeros")
    small = build(Site(8, 2, 8, 8), sr_ratio=8, padding="official")
    with pytest.raises(ValueError, match="at least sr_ratio 8 tokens a side, got 5 x 9"):
        small(torch.randn(1, 5, 9, 8, dtype=torch.double))
