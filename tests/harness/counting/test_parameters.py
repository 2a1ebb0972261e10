"""Parameters, counted."""

from torch import nn

from attnbench.harness.counting import parameters


def test_parameters_shared_by_two_modules_count_once() -> None:
    layer = nn.Linear(3, 3)
    assert parameters.measure(nn.Sequential(layer, layer, nn.Linear(3, 1, bias=False))) == 12 + 3
