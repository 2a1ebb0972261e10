"""fvcore as a third voice. Skipped, with the reason, where it is not installed."""

import importlib.util

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from attnbench import ImplementationError, create_model, names
from attnbench.harness.counting import crosscheck, macs

installed = importlib.util.find_spec("fvcore") is not None
needs_fvcore = pytest.mark.skipif(not installed, reason="fvcore is not installed: attnbench[crosscheck]")


@needs_fvcore
@pytest.mark.parametrize("name", names())
def test_three_voices_agree(name: str) -> None:
    model = create_model("swin_pico", name, impl="eager").eval()
    image = torch.zeros(1, 1, 34, 30)
    found = crosscheck.measure(model, image)
    assert found.products == macs.count(model, image) == sum(model.macs(34, 30).values())
    assert set(found.others) <= {"layer_norm", "group_norm", "grid_sampler", "adaptive_avg_pool2d"}
    assert found.missed == {}


@needs_fvcore
def test_differences_are_explained() -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cdist(F.layer_norm(x @ x, (4,)), x)

    found = crosscheck.measure(Model(), torch.zeros(2, 4, 4))
    assert (found.products, found.missed) == (2 * 64, {"aten::cdist": 1})
    assert found.explain(130) == (
        f"fvcore {128 + 4 * 32}, torch 130: +128 layer_norm, -2 unexplained, aten::cdist passed over 1 times"
    )


@pytest.mark.skipif(installed, reason="fvcore is installed")
def test_without_fvcore_the_reason_is_given() -> None:
    with pytest.raises(ImplementationError, match=r"install attnbench\[crosscheck\]"):
        crosscheck.measure(nn.Linear(2, 2), torch.zeros(1, 2))
