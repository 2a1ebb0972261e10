"""Cross-shaped windows against dense attention under explicit masks."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnbench import AttnbenchError, Site, get
from attnbench.layouts.swin import SWIN_T


def build(site: Site, **options: object) -> nn.Module:
    torch.manual_seed(0)
    module = get("cross_shaped").build(site, impl="eager", **options).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


def dense(q: Tensor, k: Tensor, v: Tensor, heads: int, allowed: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    """Attention on (N, C) with an (N, N) mask, head by head."""
    parts = []
    for qh, kh, vh in zip(q.chunk(heads, 1), k.chunk(heads, 1), v.chunk(heads, 1), strict=True):
        logits = qh @ kh.T / qh.shape[1] ** 0.5 + bias
        parts.append(logits.masked_fill(~allowed, float("-inf")).softmax(1) @ vh)
    return torch.cat(parts, 1)


def local(v: Tensor, size: tuple[int, int], width: int, axis: int, weight: Tensor, bias: Tensor) -> Tensor:
    """Depth-wise convolution of each stripe on its own; axis 1 cuts columns (vertical stripes), 0 rows."""
    image = v.T.reshape(1, -1, *size)
    stripes = image.split(width, dim=2 + axis)
    out = [F.conv2d(s, weight, bias, padding=1, groups=s.shape[1]) for s in stripes]
    return torch.cat(out, dim=2 + axis).flatten(2)[0].T


def reference(module: nn.Module, x: Tensor, width: int, heads: int) -> Tensor:
    """Both directions on one image (H, W, C), every token listed with its row and column."""
    H, W, C = x.shape
    p = dict(module.named_parameters())
    q, k, v = (x.flatten(0, 1) @ p["qkv.weight"].T + p["qkv.bias"]).chunk(3, 1)
    row, column = torch.arange(H * W) // W, torch.arange(H * W) % W
    halves = []
    for i, place in enumerate((column, row)):  # vertical stripes are cut along the columns
        part = slice(i * C // 2, (i + 1) * C // 2)
        same = place[:, None] // width == place[None, :] // width
        y = dense(q[:, part], k[:, part], v[:, part], heads // 2, same)
        weight, bias = p[f"branches.{i}.lepe.weight"], p[f"branches.{i}.lepe.bias"]
        halves.append(y + local(v[:, part], (H, W), width, 1 - i, weight, bias))
    return (torch.cat(halves, 1) @ p["proj.weight"].T + p["proj.bias"]).view(H, W, C)


@pytest.mark.parametrize("size", [(8, 8), (7, 10), (2, 9), (5, 1)])
def test_equals_dense_attention_in_stripes(size: tuple[int, int]) -> None:
    module = build(Site(16, 4, 8, 8), split_size=4)
    x = torch.randn(2, *size, 16, dtype=torch.double)
    expected = torch.stack([reference(module, image, 4, 4) for image in x])
    torch.testing.assert_close(module(x), expected, rtol=0, atol=1e-12)


def test_global_branch_is_full_attention_with_lepe() -> None:
    module = build(Site(16, 4, 5, 5, 3), last_stage=True)
    full = get("full").build(Site(16, 4, 5, 5), impl="eager", lepe_kernel=3).double()
    renamed = {k.replace("branches.0.", ""): v for k, v in module.state_dict().items()}
    full.load_state_dict(renamed)
    x = torch.randn(1, 6, 5, 16, dtype=torch.double)
    torch.testing.assert_close(module(x), full(x), rtol=0, atol=1e-12)


def test_one_branch_when_the_stripe_is_the_nominal_map() -> None:
    assert len(build(Site(16, 4, 7, 7), split_size=7).branches) == 1
    assert len(build(Site(16, 4, 7, 8), split_size=7).branches) == 2


@pytest.mark.parametrize(
    ("heads", "dim", "expected"), [(3, 96, 1), (6, 192, 3), (5, 80, 2), (9, 18, 3), (1, 8, 1)]
)
def test_heads_of_each_direction(heads: int, dim: int, expected: int) -> None:
    module = build(Site(dim, heads, 14, 14))
    assert [branch.num_heads for branch in module.branches] == [expected, expected]


def test_position_bias_depends_on_offset_and_is_clamped() -> None:
    module = build(Site(8, 2, 4, 4), split_size=2, lepe_kernel=0, position_bias=True)
    branch = module.branches[0]
    assert branch.bias_table.shape == (7, 3, 1)  # a vertical stripe of 4 x 2 tokens
    H, W = 6, 2
    qkv = torch.randn(1, H, W, 12, dtype=torch.double)
    bias = torch.empty(H * W, H * W, dtype=torch.double)
    for i in range(H * W):
        for j in range(H * W):
            dy, dx = i // W - j // W, i % W - j % W
            bias[i, j] = branch.bias_table[max(-3, min(3, dy)) + 3, dx + 1, 0]
    q, k, v = qkv[0].flatten(0, 1).chunk(3, 1)
    expected = dense(q, k, v, 1, torch.ones(H * W, H * W, dtype=torch.bool), bias)
    torch.testing.assert_close(branch(qkv)[0].flatten(0, 1), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("lepe_kernel", "total"), [(3, 1_597_177_344), (0, 1_584_307_200)])
def test_total_in_the_swin_layout(lepe_kernel: int, total: int) -> None:
    with torch.device("meta"):
        modules = [(get("cross_shaped").build(s, lepe_kernel=lepe_kernel), s) for s in SWIN_T.sites(224, 224)]
    assert sum(sum(m.macs(s.height, s.width).values()) for m, s in modules) == total


@pytest.mark.parametrize(
    ("site", "options", "message"),
    [
        (Site(8, 2, 4, 4), {"split_size": 0}, "split_size must be positive"),
        (Site(9, 3, 4, 4), {"last_stage": False}, "dim must be even"),
    ],
)
def test_refuses_wrong_options(site: Site, options: dict[str, object], message: str) -> None:
    with pytest.raises(AttnbenchError, match=message):
        build(site, **options)
