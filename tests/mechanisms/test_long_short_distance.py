"""Long-short distance attention against full attention under an explicit mask and bias."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnbench import Site, get
from attnbench.layouts.swin import SWIN_T


def build(site: Site, **options: object) -> nn.Module:
    torch.manual_seed(0)
    module = get("long_short_distance").build(site, impl="eager", **options).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


def position_bias(p: dict[str, Tensor], offsets: Tensor) -> Tensor:
    """(..., heads): the dynamic position bias of offsets (..., 2)."""
    y = offsets @ p["position.layers.0.weight"].T + p["position.layers.0.bias"]
    for i in (1, 4, 7):
        norm, linear = f"position.layers.{i}.", f"position.layers.{i + 2}."
        y = F.layer_norm(y, y.shape[-1:], p[norm + "weight"], p[norm + "bias"]).relu()
        y = y @ p[linear + "weight"].T + p[linear + "bias"]
    return y


def dense(x: Tensor, p: dict[str, Tensor], heads: int, group: list[int], interval: list[int]) -> Tensor:
    """Full attention on one image (H, W, C), masked to groups; offsets count steps of the interval."""
    H, W, C = x.shape
    places = [(y, c) for y in range(H) for c in range(W)]
    reach = torch.tensor(
        [
            [
                all(
                    a // (g * i) == b // (g * i) and a % i == b % i
                    for a, b, g, i in zip(query, key, group, interval, strict=True)
                )
                for key in places
            ]
            for query in places
        ]
    )
    place = torch.tensor(places, dtype=x.dtype)
    bias = position_bias(p, (place[:, None] - place[None]) / torch.tensor(interval, dtype=x.dtype))
    q, k, v = (x.flatten(0, 1) @ p["qkv.weight"].T + p["qkv.bias"]).chunk(3, -1)
    out, d = torch.empty_like(q), C // heads
    for h in range(heads):
        own = slice(h * d, h * d + d)
        logits = q[:, own] @ k[:, own].T / d**0.5 + bias[..., h]
        out[:, own] = logits.masked_fill(~reach, float("-inf")).softmax(-1) @ v[:, own]
    return (out @ p["proj.weight"].T + p["proj.bias"]).view(H, W, C)


@pytest.mark.parametrize(
    ("size", "kind", "group", "interval", "used_group", "used_interval"),
    [
        ((6, 9), "sda", 3, 2, [3, 3], [1, 1]),
        ((7, 5), "sda", 3, 2, [3, 3], [1, 1]),
        ((8, 12), "lda", 2, 4, [2, 2], [4, 4]),
        ((8, 12), "lda", 7, 4, [2, 3], [4, 4]),  # no axis needs more than 2 and 3
        ((17, 3), "lda", 2, 4, [2, 1], [4, 3]),  # padded groups without a single token, a short axis
        ((5, 1), "lda", 7, 8, [1, 1], [5, 1]),
    ],
)
@torch.no_grad()
def test_equals_masked_full_attention(
    size: tuple[int, int],
    kind: str,
    group: int,
    interval: int,
    used_group: list[int],
    used_interval: list[int],
) -> None:
    module = build(Site(32, 2, *size), kind=kind, group_size=group, interval=interval)
    x = torch.randn(1, *size, 32, dtype=torch.double)
    expected = dense(x[0], module.state_dict(), 2, used_group, used_interval)
    torch.testing.assert_close(module(x)[0], expected, rtol=0, atol=1e-12)


def test_gradients_are_finite_where_a_group_is_all_padding() -> None:
    module = build(Site(32, 2, 17, 3), kind="lda", group_size=2, interval=4)
    x = torch.randn(1, 17, 3, 32, dtype=torch.double, requires_grad=True)
    module(x).square().sum().backward()
    assert all(t.grad.isfinite().all() for t in (x, *module.parameters()))


def test_blocks_alternate_and_long_groups_span_the_nominal_map() -> None:
    short, long = (get("long_short_distance").build(Site(32, 1, 56, 56, 0, block)) for block in range(2))
    first = long.support(56, 56)[0].view(56, 56).nonzero()
    assert first.unique().tolist() == list(range(0, 56, 8))
    assert len(first) == 49
    assert short.support(56, 56)[0].view(56, 56).nonzero().unique().tolist() == list(range(7))


def test_costs_what_windows_of_7_cost_but_for_the_position_bias() -> None:
    own = windows = 0
    with torch.device("meta"):
        for site in SWIN_T.sites(224, 224):
            cost = get("long_short_distance").build(site).macs(site.height, site.width)
            p = site.dim // 16
            assert cost.pop("position") == 169 * (2 * p + 2 * p * p + p * site.num_heads)
            own += sum(cost.values())
            windows += sum(get("shifted_window").build(site).macs(site.height, site.width).values())
    assert own == windows


@pytest.mark.parametrize("option", [{"group_size": 0}, {"interval": 0}, {"kind": "mda"}])
def test_refuses_options_that_mean_nothing(option: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(option))):
        get("long_short_distance").load()(Site(32, 2, 4, 4), **option)
