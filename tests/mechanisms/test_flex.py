"""FlexAttention against eager: forward on a CPU, gradients where there is a CUDA device."""

import pytest
import torch
from torch import nn

from attnbench import ImplementationError, Site, get


def pair(name: str, side: int, **options: object) -> tuple[nn.Module, nn.Module, torch.Tensor]:
    """Eager, flex with the same weights, and an input whose map the mechanism must pad or cut."""
    torch.manual_seed(0)
    site = Site(32, 2, side, side, 0, 1)
    eager, flex = (get(name).build(site, impl=impl, **options) for impl in ("eager", "flex"))
    flex.load_state_dict(eager.state_dict())
    return eager, flex, torch.randn(2, side, side, 32)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("shifted_window", {"window_size": 4}),
        ("neighborhood", {"kernel_size": 3}),
        ("dilated", {"kernel_size": 3, "dilation": 2, "position_bias": False}),
    ],
)
def test_forward_is_that_of_eager(name: str, options: dict[str, object]) -> None:
    eager, flex, x = pair(name, 10, **options)
    with torch.no_grad():
        torch.testing.assert_close(flex(x), eager(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["shifted_window", "neighborhood", "sliding_window"])
def test_gradients_on_a_cpu_are_refused_with_the_reason(name: str) -> None:
    _, flex, x = pair(name, 10)
    with pytest.raises(ImplementationError, match=r"'flex' cannot run here: it has no gradients on 'cpu'"):
        flex(x)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["shifted_window", "neighborhood", "sliding_window"])
def test_gradients_are_those_of_eager_on_a_gpu(name: str) -> None:
    eager, flex, x = pair(name, 14)
    found = []
    for module in (eager.cuda(), flex.cuda()):
        y = module(x.cuda())
        y.square().sum().backward()
        found.append([y, *(p.grad for p in module.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-3)


@pytest.mark.gpu
def test_narrow_heads_are_refused_on_a_gpu() -> None:
    module = get("shifted_window").build(Site(32, 4, 14, 14), impl="flex").cuda()
    with pytest.raises(ImplementationError, match="at least 16 channels, got 8"):
        module(torch.randn(1, 14, 14, 32, device="cuda"))
