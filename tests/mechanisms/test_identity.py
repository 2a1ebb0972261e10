"""Identity: the floor of the layout."""

import torch

from attnbench import Site, get


def test_returns_its_input_at_no_cost() -> None:
    module = get("identity").build(Site(4, 1, 5, 5))
    x = torch.randn(2, 3, 7, 4)
    assert torch.equal(module(x), x)
    assert module.macs(56, 56) == {}
    assert module.parameter_count() == len(list(module.parameters())) == 0
    assert torch.equal(module.support(2, 3), torch.eye(6, dtype=torch.bool))
