"""Twins' local and global attention against dense references."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnbench import AttnbenchError, Site, get
from attnbench.layouts.swin import SWIN_T


def build(site: Site, **options: object) -> nn.Module:
    torch.manual_seed(0)
    module = get("spatially_separable").build(site, impl="eager", **options).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


def heads_of(x: Tensor, heads: int) -> Tensor:
    """(N, C) into (heads, N, d)."""
    return torch.stack(x.chunk(heads, 1))


@pytest.mark.parametrize("size", [(8, 8), (7, 10), (3, 5), (1, 9)])
def test_lsa_is_attention_masked_to_windows(size: tuple[int, int]) -> None:
    module = build(Site(8, 2, 8, 8, block=0), window_size=4)
    H, W = size
    x = torch.randn(1, H, W, 8, dtype=torch.double)
    p = {k.removeprefix("attention."): v for k, v in module.named_parameters()}
    q, k, v = (x[0].flatten(0, 1) @ p["qkv.weight"].T + p["qkv.bias"]).chunk(3, 1)
    row, column = torch.arange(H * W) // W // 4, torch.arange(H * W) % W // 4
    allowed = (row[:, None] == row[None, :]) & (column[:, None] == column[None, :])
    out = F.scaled_dot_product_attention(*(heads_of(t, 2) for t in (q, k, v)), attn_mask=allowed)
    expected = torch.cat(list(out), 1) @ p["proj.weight"].T + p["proj.bias"]
    torch.testing.assert_close(module(x)[0].flatten(0, 1), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(8, 8), (7, 10), (3, 2)])
def test_gsa_keys_come_from_patches_of_real_tokens(size: tuple[int, int]) -> None:
    r, (H, W) = 4, size
    module = build(Site(8, 2, 8, 8, block=1), sr_ratio=r)
    x = torch.randn(1, H, W, 8, dtype=torch.double)
    p = {k.removeprefix("attention."): v for k, v in module.named_parameters()}
    reduced = []
    for y0 in range(0, H, r):
        for x0 in range(0, W, r):
            patch = x[0, y0 : y0 + r, x0 : x0 + r]  # cut at the border
            weight = p["sr.weight"][:, :, : patch.shape[0], : patch.shape[1]]
            reduced.append(torch.einsum("yxc,ocyx->o", patch, weight) + p["sr.bias"])
    keys = F.layer_norm(torch.stack(reduced), (8,), p["norm.weight"], p["norm.bias"])
    q = x[0].flatten(0, 1) @ p["q.weight"].T + p["q.bias"]
    k, v = (keys @ p["kv.weight"].T + p["kv.bias"]).chunk(2, 1)
    out = F.scaled_dot_product_attention(*(heads_of(t, 2) for t in (q, k, v)))
    expected = torch.cat(list(out), 1) @ p["proj.weight"].T + p["proj.bias"]
    torch.testing.assert_close(module(x)[0].flatten(0, 1), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(5, 6), (4, 7), (3, 3)])
def test_support_of_official_gsa_is_its_jacobian(size: tuple[int, int]) -> None:
    module = build(Site(4, 2, 8, 8), kind="gsa", sr_ratio=3, padding="official")
    n = size[0] * size[1]
    jacobian = torch.autograd.functional.jacobian(
        lambda x: module(x).sum(-1).flatten(), torch.randn(1, *size, 4, dtype=torch.double)
    )
    reached = jacobian.abs().sum(-1).reshape(n, n) > 0
    assert torch.equal(reached, module.support(*size))
    assert reached.all() == (size[0] % 3 == 0 and size[1] % 3 == 0)


def test_official_lsa_attends_to_padding() -> None:
    site = Site(8, 2, 8, 8)
    masked, official = (build(site, kind="lsa", window_size=4, padding=p) for p in ("masked", "official"))
    whole, ragged = torch.randn(1, 8, 8, 8, dtype=torch.double), torch.randn(1, 6, 8, 8, dtype=torch.double)
    assert torch.equal(masked(whole), official(whole))
    by_hand = official(F.pad(ragged, (0, 0, 0, 0, 0, 2)))[:, :6]
    torch.testing.assert_close(official(ragged), by_hand, rtol=0, atol=1e-12)
    assert not torch.allclose(masked(ragged), official(ragged), atol=1e-3)


def test_kind_alternates_with_the_block() -> None:
    kinds = [type(build(Site(8, 2, 8, 8, block=b)).attention).__name__ for b in range(4)]
    assert kinds == ["LocallyGroupedAttention", "ReducedAttention"] * 2


def test_total_in_the_swin_layout() -> None:
    with torch.device("meta"):
        modules = [(get("spatially_separable").build(s), s) for s in SWIN_T.sites(224, 224)]
    total = sum(sum(m.macs(s.height, s.width).values()) for m, s in modules)
    assert total == 1_430_768_640


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "both"}, "kind must be"),
        ({"kind": "lsa", "window_size": 0}, "window_size must be positive"),
        ({"kind": "lsa", "padding": "none"}, "padding must be"),
        ({"kind": "gsa", "sr_ratio": 0}, "sr_ratio must be positive"),
        ({"kind": "gsa", "padding": "none"}, "padding must be"),
    ],
)
def test_refuses_wrong_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(AttnbenchError, match=message):
        build(Site(8, 2, 8, 8), **options)
