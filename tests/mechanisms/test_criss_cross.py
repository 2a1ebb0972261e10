"""Criss-cross attention against dense attention with an explicit mask and bias."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from attnbench import AttnbenchError, Site, get
from attnbench.layouts.swin import SWIN_T

IMPLS = ("masked", "eager")


def build(site: Site, impl: str = "eager", **options: object) -> nn.Module:
    torch.manual_seed(0)
    module = get("criss_cross").build(site, impl=impl, **options).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


def distances(height: int, width: int) -> torch.Tensor:
    """(N, N, 2) rows and columns from key to query."""
    place = torch.cartesian_prod(torch.arange(height), torch.arange(width))
    return place[:, None, :] - place[None, :, :]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("size", [(4, 5), (7, 9), (1, 6), (6, 1), (1, 1)])
def test_equals_dense_attention(impl: str, size: tuple[int, int]) -> None:
    module = build(Site(8, 2, 4, 5), impl)
    p = dict(module.named_parameters())
    x = torch.randn(1, *size, 8, dtype=torch.double)
    dy, dx = distances(*size).unbind(-1)
    q, k, v = (x[0].flatten(0, 1) @ p["qkv.weight"].T + p["qkv.bias"]).chunk(3, -1)
    outs = []
    for head in (0, 1):
        qh, kh, vh = (t[:, 4 * head : 4 * head + 4] for t in (q, k, v))
        along_row = p["row_table"][:, head][dx.clamp(-4, 4) + 4]
        along_column = p["column_table"][:, head][dy.clamp(-3, 3) + 3]
        logits = qh @ kh.T / 2 + torch.where(dy == 0, along_row, along_column)
        outs.append(logits.masked_fill((dy != 0) & (dx != 0), float("-inf")).softmax(-1) @ vh)
    expected = torch.cat(outs, -1) @ p["proj.weight"].T + p["proj.bias"]
    torch.testing.assert_close(module(x)[0].flatten(0, 1), expected, rtol=0, atol=1e-12)


def test_ccnet_form_equals_dense_attention() -> None:
    module = build(Site(20, 4, 4, 5), form="ccnet")  # 20 // 8 = 2 channels of queries and keys
    x = torch.randn(1, 5, 3, 20, dtype=torch.double)
    tokens = x[0].flatten(0, 1)
    dy, dx = distances(5, 3).unbind(-1)
    logits = module.query(tokens) @ module.key(tokens).T
    attention = logits.masked_fill((dy != 0) & (dx != 0), float("-inf")).softmax(-1)
    expected = module.gamma * (attention @ module.value(tokens)) + tokens
    torch.testing.assert_close(module(x)[0].flatten(0, 1), expected, rtol=0, atol=1e-12)


def test_ccnet_form_starts_as_the_identity() -> None:
    x = torch.randn(1, 4, 3, 16)
    assert torch.equal(get("criss_cross").build(Site(16, 2, 4, 4), form="ccnet")(x), x)


@pytest.mark.parametrize("size", [(3, 4), (1, 1)])
def test_one_row_or_one_token_is_full_attention(size: tuple[int, int]) -> None:
    module = build(Site(8, 2, *size), position_bias=False)
    full = get("full").build(Site(8, 2, *size), impl="eager").double()
    full.load_state_dict(module.state_dict())
    x = torch.randn(1, 1, size[1], 8, dtype=torch.double)
    torch.testing.assert_close(module(x), full(x), rtol=0, atol=1e-12)


def test_only_eager_makes_no_superfluous_product() -> None:
    counted = {}
    for impl in IMPLS:
        module = build(Site(8, 2, 6, 5), impl)
        with FlopCounterMode(display=False) as counter:
            module(torch.zeros(1, 6, 5, 8, dtype=torch.double))
        counted[impl] = counter.get_total_flops() // 2
    assert counted["eager"] == sum(module.macs(6, 5).values())
    assert counted["masked"] - counted["eager"] == 2 * 6 * 5 * 8  # one more key


def test_total_in_the_swin_layout() -> None:
    with torch.device("meta"):
        modules = [(get("criss_cross").build(s), s) for s in SWIN_T.sites(224, 224)]
    assert sum(sum(m.macs(s.height, s.width).values()) for m, s in modules) == 1_580_393_472


@pytest.mark.parametrize(
    ("dim", "options", "message"),
    [(8, {"form": "cross"}, "form must be"), (4, {"form": "ccnet"}, "dim of at least 8")],
)
def test_refuses_wrong_options(dim: int, options: dict[str, object], message: str) -> None:
    with pytest.raises(AttnbenchError, match=message):
        build(Site(dim, 2, 4, 4), **options)
