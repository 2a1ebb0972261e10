"""Every mechanism refuses a map it cannot work on, in one line that says what it takes."""

import copy
import pickle

import pytest
import torch

from attnbench import AttnbenchError, Site, get, names
from attnbench.inputs import InputError

SHAPES = {
    "no image": (0, 8, 8, 32),
    "no row": (1, 0, 8, 32),
    "no column": (1, 8, 0, 32),
    "other channels": (1, 8, 8, 24),
    "no channels": (1, 8, 8, 0),
    "tokens in a row": (1, 64, 32),
}


@pytest.mark.parametrize("name", names())
def test_one_line_for_each_wrong_shape(name: str) -> None:
    for block in (0, 1):
        module = get(name).build(Site(32, 4, 8, 8, 1, block))
        for shape in SHAPES.values():
            with pytest.raises(InputError) as caught:
                module(torch.zeros(shape))
            message = str(caught.value)
            assert name in message
            assert "(B, H, W, 32)" in message
            assert str(shape) in message
            assert "\n" not in message
        assert module(torch.randn(1, 8, 8, 32)).shape == (1, 8, 8, 32)


def test_it_is_an_error_of_both_kinds() -> None:
    assert issubclass(InputError, AttnbenchError)
    assert issubclass(InputError, ValueError)


def test_copies_and_compiled_modules_refuse_too() -> None:
    module = get("full").build(Site(32, 4, 8, 8))
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        with pytest.raises(InputError):
            twin(torch.zeros(0, 8, 8, 32))
