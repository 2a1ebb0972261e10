"""Pooling against an average written out token by token."""

import pytest
import torch

from attnbench import AttnbenchError, Site, get


@pytest.mark.parametrize("pool_size", [1, 3, 5])
def test_is_the_mean_of_real_neighbours_minus_the_token(pool_size: int) -> None:
    module = get("pooling").build(Site(4, 1, 5, 5), pool_size=pool_size)
    x, reach = torch.randn(2, 4, 7, 4, dtype=torch.double), pool_size // 2
    expected = torch.empty_like(x)
    for i in range(4):
        for j in range(7):
            near = x[:, max(i - reach, 0) : i + reach + 1, max(j - reach, 0) : j + reach + 1]
            expected[:, i, j] = near.mean((1, 2)) - x[:, i, j]
    torch.testing.assert_close(module(x), expected, rtol=0, atol=1e-14)


def test_a_token_alone_is_cancelled() -> None:
    module = get("pooling").build(Site(4, 1, 5, 5))
    assert not module(torch.randn(1, 1, 1, 4)).any()
    assert not module.support(1, 1).any()
    assert module.support(1, 2).all()


def test_costs_nothing_and_learns_nothing() -> None:
    module = get("pooling").build(Site(4, 1, 5, 5))
    assert module.macs(56, 56) == {}
    assert module.parameter_count() == len(list(module.parameters())) == 0


@pytest.mark.parametrize("pool_size", [0, 2, -3])
def test_refuses_even_sizes(pool_size: int) -> None:
    with pytest.raises(AttnbenchError, match="pool_size must be odd and positive"):
        get("pooling").build(Site(4, 1, 5, 5), pool_size=pool_size)
