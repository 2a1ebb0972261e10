"""Block and grid attention against dense attention with an explicit mask and bias."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnbench import AttnbenchError, Site, get
from attnbench.layouts.swin import SWIN_T


def build(site: Site, **options: object) -> nn.Module:
    torch.manual_seed(0)
    module = get("block_grid").build(site, impl="eager", **options).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


def places(n: int, window: int, grid: bool) -> tuple[Tensor, Tensor]:
    """Group of each position of an axis, and its place in the group."""
    window = min(window, n)
    stride = -(-n // window)
    i = torch.arange(n)
    return (i % stride, i // stride) if grid else (i // window, i % window)


@pytest.mark.parametrize("block", [0, 1])
@pytest.mark.parametrize("size", [(8, 8), (7, 10), (2, 9), (1, 1)])
def test_equals_dense_attention(block: int, size: tuple[int, int]) -> None:
    H, W = size
    module = build(Site(8, 2, 8, 8, block=block), window_size=4)
    x = torch.randn(1, H, W, 8, dtype=torch.double)
    p = dict(module.named_parameters())
    (gy, py), (gx, px) = (places(n, 4, bool(block)) for n in size)
    row, column = torch.arange(H * W) // W, torch.arange(H * W) % W
    group = torch.stack([gy[row], gx[column]])
    allowed = (group[:, :, None] == group[:, None, :]).all(0)
    y, z = py[row], px[column]
    dy, dx = y[None, :] - y[:, None], z[None, :] - z[:, None]  # key minus query
    near = (dy.abs() < 4) & (dx.abs() < 4)
    bias = p["bias_table"][:, dy.clamp(-3, 3) + 3, dx.clamp(-3, 3) + 3]
    assert near[allowed].all()
    q, k, v = (x[0].flatten(0, 1) @ p["qkv.weight"].T + p["qkv.bias"]).chunk(3, 1)
    out = F.scaled_dot_product_attention(
        *(torch.stack(t.chunk(2, 1)) for t in (q, k, v)), attn_mask=bias.masked_fill(~allowed, float("-inf"))
    )
    expected = torch.cat(list(out), 1) @ p["proj.weight"].T + p["proj.bias"]
    torch.testing.assert_close(module(x)[0].flatten(0, 1), expected, rtol=0, atol=1e-12)


def test_window_larger_than_the_map_is_full_attention_in_both() -> None:
    full = get("full").build(Site(8, 2, 5, 6), impl="eager").double()
    x = torch.randn(1, 5, 6, 8, dtype=torch.double)
    for kind in ("block", "grid"):
        module = build(Site(8, 2, 5, 6), kind=kind, position_bias=False)
        full.load_state_dict(module.state_dict())
        torch.testing.assert_close(module(x), full(x), rtol=0, atol=1e-12)


def test_bias_forms_are_each_others_mirror() -> None:
    tf, swin = (build(Site(8, 2, 6, 6), window_size=3, bias_form=form) for form in ("tf", "swin"))
    weights = tf.state_dict()
    weights["bias_table"] = weights["bias_table"].flip(1, 2).flatten(1).t()
    swin.load_state_dict(weights)
    x = torch.randn(1, 6, 6, 8, dtype=torch.double)
    torch.testing.assert_close(tf(x), swin(x), rtol=0, atol=1e-12)


def test_head_first_is_an_order_of_channels() -> None:
    plain, first = (build(Site(8, 2, 6, 6), window_size=3, head_first=f) for f in (False, True))
    weights = plain.state_dict()
    for name in ("qkv.weight", "qkv.bias"):
        weights[name] = weights[name].unflatten(0, (3, 2, 4)).transpose(0, 1).flatten(0, 2)
    first.load_state_dict(weights)
    x = torch.randn(1, 6, 6, 8, dtype=torch.double)
    torch.testing.assert_close(plain(x), first(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["block", "grid"])
def test_official_padding_is_a_padded_input(kind: str) -> None:
    builder = get("block_grid").load()  # a tuple given to build would mean one value per stage
    official, masked = (
        builder(Site(8, 2, 8, 8), window_size=(4, 2), kind=kind, padding=p).double()
        for p in ("official", "masked")
    )
    masked.load_state_dict(official.state_dict())
    x = torch.randn(1, 7, 5, 8, dtype=torch.double)
    by_hand = official(F.pad(x, (0, 0, 0, 3, 0, 1)))[:, :7, :5]  # the window's height serves both axes
    torch.testing.assert_close(official(x), by_hand, rtol=0, atol=1e-12)
    assert official.macs(7, 5) == official.macs(8, 8)
    assert not torch.allclose(masked(x), official(x), atol=1e-3)


def test_total_in_the_swin_layout() -> None:
    with torch.device("meta"):
        modules = [(get("block_grid").build(s), s) for s in SWIN_T.sites(224, 224)]
    assert sum(sum(m.macs(s.height, s.width).values()) for m, s in modules) == 1_527_407_616


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window_size": 0}, "window_size must be positive"),
        ({"kind": "stripe"}, "kind must be one of"),
        ({"bias_form": "mlp"}, "bias_form must be one of"),
        ({"padding": "reflect"}, "padding must be one of"),
    ],
)
def test_refuses_wrong_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(AttnbenchError, match=message):
        build(Site(8, 2, 8, 8), **options)
