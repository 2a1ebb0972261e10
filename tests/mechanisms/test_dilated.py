"""Dilated neighborhood attention: which block is dilated, and what it then sees."""

from typing import Any

import pytest
import torch

from attnbench import AttnbenchError, Site, get


def dilations(**options: Any) -> list[list[Any]]:
    """Dilation of the first two blocks of each stage of the Swin-T layout."""
    modules: list[list[Any]] = [
        [
            get("dilated").build(Site(8, 2, 56 >> stage, 56 >> stage, stage, block), **options)
            for block in (0, 1)
        ]
        for stage in range(4)
    ]
    return [[module.dilation for module in stage] for stage in modules]


def test_stages_alternate_as_in_dinat_s_tiny() -> None:
    assert dilations() == [[1, 8], [1, 4], [1, 2], [1, 1]]
    assert dilations(odd_dilation=[3, 2]) == [[1, 3], [1, 2], [1, 2], [1, 2]]
    assert dilations(dilation=5) == [[5, 5]] * 4


def test_a_dilated_block_is_dense_attention_inside_each_class() -> None:
    """At 28 × 28 with dilation 4 each class is a 7 × 7 map of its own, and the window covers it."""
    torch.manual_seed(0)
    dilated: Any = get("dilated").build(Site(8, 2, 28, 28, 1, 1), position_bias=False).double()
    full = get("full").build(Site(8, 2, 7, 7)).double()
    full.load_state_dict(dilated.state_dict())
    x = torch.randn(1, 28, 28, 8, dtype=torch.double)
    out = dilated(x)
    for y in range(4):
        for z in range(4):
            torch.testing.assert_close(out[:, y::4, z::4], full(x[:, y::4, z::4]))


def test_an_even_block_is_plain_neighborhood_attention() -> None:
    even = get("dilated").build(Site(8, 2, 20, 20, 0, 0))
    plain = get("neighborhood").build(Site(8, 2, 20, 20, 0, 0))
    plain.load_state_dict(even.state_dict())
    x = torch.randn(2, 20, 17, 8)
    torch.testing.assert_close(even(x), plain(x))


def test_a_dilation_beyond_the_map_leaves_each_token_alone() -> None:
    module: Any = get("dilated").build(Site(8, 2, 8, 8, 0, 1), dilation=8)
    x = torch.randn(1, 8, 6, 8)
    torch.testing.assert_close(module(x), module.proj(module.qkv(x)[..., 16:]))
    assert module.support(8, 6).equal(torch.eye(48, dtype=torch.bool))


@pytest.mark.parametrize("option", ["dilation", "odd_dilation"])
def test_wrong_dilation_is_named(option: str) -> None:
    options: dict[str, Any] = {option: -2}
    with pytest.raises(AttnbenchError, match=f"{option} must be positive, got -2"):
        get("dilated").build(Site(8, 2, 8, 8, 0, 1), **options)
