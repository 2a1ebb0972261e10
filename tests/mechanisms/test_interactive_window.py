"""Interactive windows and scalable attention against dense references."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnbench import Site, get
from attnbench.layouts.swin import SWIN_T


def build(site: Site, **options: object) -> nn.Module:
    torch.manual_seed(0)
    module = get("interactive_window").build(site, impl="eager", **options).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


def parameters(module: nn.Module) -> dict[str, Tensor]:
    return {name.removeprefix("attention."): value for name, value in module.state_dict().items()}


@pytest.mark.parametrize(("size", "window"), [((6, 9), 3), ((7, 5), 3), ((4, 3), 7)])
@torch.no_grad()
def test_windows_equal_masked_full_attention_plus_a_convolution(size: tuple[int, int], window: int) -> None:
    module = build(Site(8, 2, *size, block=0), window_size=window)
    p, (H, W) = parameters(module), size
    x = torch.randn(1, H, W, 8, dtype=torch.double)
    q, k, v = (x[0].flatten(0, 1) @ p["qkv.weight"].T + p["qkv.bias"]).chunk(3, -1)
    corner = [(y // window, c // window) for y in range(H) for c in range(W)]
    reach = torch.tensor([[a == b for b in corner] for a in corner])
    heads = []
    for c in (0, 4):
        logits = q[:, c : c + 4] @ k[:, c : c + 4].T / 2
        heads.append(logits.masked_fill(~reach, float("-inf")).softmax(-1) @ v[:, c : c + 4])
    near = F.conv2d(v.T.reshape(1, 8, H, W), p["interact.weight"], p["interact.bias"], padding=1, groups=8)
    out = torch.cat(heads, -1) + near[0].flatten(1).T
    expected = out @ p["proj.weight"].T + p["proj.bias"]
    torch.testing.assert_close(module(x)[0].flatten(0, 1), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("size", "ratio"), [((4, 6), 2), ((5, 3), 2), ((2, 3), 8)])
@torch.no_grad()
def test_scalable_attention_equals_a_dense_reference(size: tuple[int, int], ratio: int) -> None:
    module = build(Site(16, 2, *size, block=1), sr_ratio=ratio, c_ratio=1.25)
    p, (H, W) = parameters(module), size
    x = torch.randn(1, H, W, 16, dtype=torch.double)
    pooled = []
    for y in range(0, H, ratio):
        for c in range(0, W, ratio):
            patch = x[0, y : y + ratio, c : c + ratio]
            kernel = p["reduce.0.weight"][:, 0, : patch.shape[0], : patch.shape[1]].permute(1, 2, 0)
            token = (patch * kernel).sum((0, 1)) + p["reduce.0.bias"]
            pooled.append(p["reduce.1.weight"][:, :, 0, 0] @ token + p["reduce.1.bias"])
    y = F.gelu(F.layer_norm(torch.stack(pooled), (20,), p["norm.weight"], p["norm.bias"]))
    q, k, v = (
        t @ p[name + ".weight"].T + p[name + ".bias"]
        for name, t in (("q", x[0].flatten(0, 1)), ("k", y), ("v", y))
    )
    heads = [  # 10 channels of queries and keys and 8 of values a head
        (q[:, 10 * h : 10 * h + 10] @ k[:, 10 * h : 10 * h + 10].T / 10**0.5).softmax(-1)
        @ v[:, 8 * h : 8 * h + 8]
        for h in (0, 1)
    ]
    expected = torch.cat(heads, -1) @ p["proj.weight"].T + p["proj.bias"]
    torch.testing.assert_close(module(x)[0].flatten(0, 1), expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_scalable_attention_without_reduction_is_full_attention() -> None:
    site = Site(8, 2, 5, 6, 3, 1)
    module, full = build(site), get("full").build(site, impl="eager").double()
    p = parameters(module)
    joined = {f"qkv.{e}": torch.cat([p[f"{n}.{e}"] for n in ("q", "kv")]) for e in ("weight", "bias")}
    full.load_state_dict(joined | {k: v for k, v in p.items() if k.startswith("proj")})
    x = torch.randn(2, 5, 6, 8, dtype=torch.double)
    torch.testing.assert_close(module(x), full(x), rtol=0, atol=1e-12)


def test_windows_cost_what_swin_costs_plus_9_per_value() -> None:
    with torch.device("meta"):
        for site in SWIN_T.sites(224, 224):
            own, swin = (
                get(name).build(site, **options).macs(site.height, site.width)
                for name, options in (("interactive_window", {"kind": "iwsa"}), ("shifted_window", {}))
            )
            assert own.pop("local") == 9 * site.height * site.width * site.dim
            assert own == swin


@pytest.mark.parametrize("option", [{"kind": "wsa"}, {"window_size": 0}, {"sr_ratio": 0}, {"c_ratio": 0.0}])
def test_refuses_options_that_mean_nothing(option: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(option))):
        get("interactive_window").load()(Site(8, 2, 4, 4), **option)
