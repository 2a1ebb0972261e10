"""Wavelet attention: the transform's own properties, and a dense reference of the whole."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnbench import Site, get
from attnbench.mechanisms.wavelet import extend, haar, inverse_haar


def build(site: Site, **options: object) -> nn.Module:
    torch.manual_seed(0)
    module = get("wavelet").build(site, impl="eager", **options).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


def test_the_transform_is_orthonormal_and_undone_exactly() -> None:
    x = torch.randn(2, 6, 8, 3, dtype=torch.double)
    bands = haar(x)
    torch.testing.assert_close(bands.square().sum(), x.square().sum())
    torch.testing.assert_close(inverse_haar(bands), x)


def test_subbands_are_products_of_low_and_high_pass_filters() -> None:
    x = torch.randn(1, 4, 6, 1, dtype=torch.double)
    low, high = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.double) / 2**0.5
    filters = [
        torch.outer(down, across) for down, across in ((low, low), (high, low), (low, high), (high, high))
    ]
    expected = F.conv2d(x.permute(0, 3, 1, 2), torch.stack(filters)[:, None], stride=2)
    torch.testing.assert_close(haar(x).permute(0, 3, 1, 2), expected)


def test_an_odd_map_is_extended_by_its_edge() -> None:
    x = torch.arange(15.0).view(1, 3, 5, 1)
    wide = extend(x)
    assert wide.shape == (1, 4, 6, 1)
    assert torch.equal(wide[:, :3, :5], x)
    assert torch.equal(wide[:, 3], wide[:, 2])
    assert torch.equal(wide[:, :, 5], wide[:, :, 4])


def reference(x: Tensor, p: dict[str, Tensor], heads: int, ratio: int) -> Tensor:
    """Output on one image (H, W, C), with the transform as 4 × 4 matrices on 2 × 2 squares."""
    H, W, C = x.shape
    h, w, R, d = (H + 1) // 2, (W + 1) // 2, C // 4, C // heads

    def norm(t: Tensor, name: str) -> Tensor:
        return F.layer_norm(t, t.shape[-1:], p[name + ".weight"], p[name + ".bias"])

    def conv(t: Tensor, name: str, stride: int, padding: int) -> Tensor:
        t = F.conv2d(t.permute(2, 0, 1)[None], p[name + ".weight"], p[name + ".bias"], stride, padding)
        return t[0].permute(1, 2, 0)

    transform = torch.tensor(
        [[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]], dtype=x.dtype
    ).div(2)
    y = F.gelu(norm(x @ p["reduce.0.weight"].T + p["reduce.0.bias"], "reduce.1"))
    bands = torch.empty(h, w, 4 * R, dtype=x.dtype)
    for i in range(h):
        for j in range(w):
            square = [y[min(2 * i + a, H - 1), min(2 * j + b, W - 1)] for a in (0, 1) for b in (0, 1)]
            bands[i, j] = (transform @ torch.stack(square)).flatten()
    bands = F.gelu(norm(conv(bands, "mix", 1, 1), "mix_norm.0"))
    back = torch.empty(H, W, R, dtype=x.dtype)
    for i in range(H):
        for j in range(W):
            square = transform.T @ bands[i // 2, j // 2].view(4, R)
            back[i, j] = square[2 * (i % 2) + j % 2]
    if ratio > 1:
        room = torch.zeros(-(-h // ratio) * ratio, -(-w // ratio) * ratio, 4 * R, dtype=x.dtype)
        room[:h, :w] = bands
        bands = conv(room, "embed", ratio, 0)
    k, v = (norm(bands, "kv_norm").flatten(0, 1) @ p["kv.weight"].T + p["kv.bias"]).chunk(2, -1)
    q = x @ p["q.weight"].T + p["q.bias"]
    out = [
        (q[..., c : c + d] @ k[:, c : c + d].T / d**0.5).softmax(-1) @ v[:, c : c + d] for c in range(0, C, d)
    ]
    return torch.cat([*out, back], -1) @ p["proj.weight"].T + p["proj.bias"]


@pytest.mark.parametrize(("size", "ratio"), [((8, 8), 2), ((7, 5), 1), ((9, 6), 4), ((1, 3), 2)])
@torch.no_grad()
def test_equals_a_dense_reference(size: tuple[int, int], ratio: int) -> None:
    module = build(Site(16, 2, *size), sr_ratio=ratio)
    x = torch.randn(1, *size, 16, dtype=torch.double)
    expected = reference(x[0], module.state_dict(), 2, ratio)
    torch.testing.assert_close(module(x)[0], expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_the_last_two_stages_attend_fully() -> None:
    for stage in range(4):
        site = Site(16, 2, 5, 6, stage)
        assert build(site).wavelet is (stage < 2)
    module, full = build(site), get("full").build(site, impl="eager").double()
    p = module.state_dict()
    joined = {f"qkv.{e}": torch.cat([p[f"q.{e}"], p[f"kv.{e}"]]) for e in ("weight", "bias")}
    full.load_state_dict(joined | {k: v for k, v in p.items() if k.startswith("proj")})
    x = torch.randn(2, 5, 6, 16, dtype=torch.double)
    torch.testing.assert_close(module(x), full(x), rtol=0, atol=1e-12)


def test_refuses_a_ratio_below_one() -> None:
    with pytest.raises(ValueError, match="sr_ratio must be positive"):
        get("wavelet").load()(Site(16, 2, 4, 4), sr_ratio=0)
