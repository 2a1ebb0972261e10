"""UniFormer's relation aggregators: near positions early, all tokens late."""

import pytest
import torch
from torch import nn

from attnbench import Site, get


def build(site: Site, **options: object) -> nn.Module:
    torch.manual_seed(0)
    module = get("local_global").build(site, impl="eager", **options).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


@pytest.mark.parametrize(("size", "kernel"), [((6, 7), 5), ((3, 1), 5), ((4, 5), 3)])
@torch.no_grad()
def test_local_sums_values_by_their_offset(size: tuple[int, int], kernel: int) -> None:
    module = build(Site(8, 2, *size), kernel_size=kernel)
    p, (H, W), reach = module.state_dict(), size, kernel // 2
    x = torch.randn(1, H, W, 8, dtype=torch.double)
    v = x[0] @ p["qkv.weight"].T + p["qkv.bias"]
    out = p["local.bias"].expand(H, W, 8).clone()
    for y in range(H):
        for c in range(W):
            for i in range(max(0, y - reach), min(H, y + reach + 1)):
                for j in range(max(0, c - reach), min(W, c + reach + 1)):
                    out[y, c] += p["local.weight"][:, 0, i - y + reach, j - c + reach] * v[i, j]
    expected = out @ p["proj.weight"].T + p["proj.bias"]
    torch.testing.assert_close(module(x)[0], expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_global_is_full_attention() -> None:
    site = Site(8, 2, 5, 6, stage=2)
    module, full = build(site), get("full").build(site, impl="eager").double()
    full.load_state_dict(module.state_dict())
    x = torch.randn(2, 5, 6, 8, dtype=torch.double)
    torch.testing.assert_close(module(x), full(x), rtol=0, atol=1e-12)


def test_the_first_two_stages_are_local() -> None:
    phases = [set(build(Site(8, 2, 4, 4, stage)).macs(4, 4)) for stage in range(4)]
    assert phases == [{"projection", "local"}] * 2 + [{"projection", "attention"}] * 2


@pytest.mark.parametrize(("option", "reason"), [({"kind": "near"}, "kind"), ({"kernel_size": 4}, "odd")])
def test_refuses_options_that_mean_nothing(option: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        get("local_global").load()(Site(8, 2, 4, 4), **option)
