"""One benchmark per mechanism × stage of the Swin-T layout × forward / forward and backward.

Time is the device's: a CUDA step ends when the GPU has finished. Run ``pytest --benchmark-only``; choose
with ``-k "bra and stage3"``. MACs, memory and the implementation that ran stand in ``extra_info``.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from attnbench import AttnbenchError, Site, get, names
from attnbench.harness import memory
from attnbench.layouts import SWIN_T

# The second block of each stage: alternating mechanisms shift, turn or deform there.
SITES = [site for site in SWIN_T.sites(224, 224) if site.block == 1]
BATCH = 2
ROUNDS = 5


@pytest.mark.parametrize("direction", ["forward", "forward_backward"])
@pytest.mark.parametrize("site", SITES, ids=lambda site: f"stage{site.stage + 1}")
@pytest.mark.parametrize("name", names())
def test_attention(benchmark: BenchmarkFixture, name: str, site: Site, direction: str) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    module = get(name).build(site).to(device).train(direction == "forward_backward")
    x = torch.randn(BATCH, site.height, site.width, site.dim, device=device)
    step = _step(module, x, direction)

    def synchronised() -> None:
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    benchmark.group = f"stage {site.stage + 1} {direction}"
    benchmark.pedantic(synchronised, rounds=ROUNDS, warmup_rounds=1)
    used = memory.measure(step, module, device, x.nbytes)
    benchmark.extra_info.update(
        macs_per_image=_macs(module, site),
        peak_memory_bytes=used.peak,
        memory_method=used.method,
        implementation=str(getattr(module, "impl", "eager")),
        batch_size=BATCH,
        device=str(device),
    )
    assert torch.isfinite(step()).all()


def _step(module: torch.nn.Module, x: torch.Tensor, direction: str) -> Callable[[], torch.Tensor]:
    def forward() -> torch.Tensor:
        with torch.no_grad():
            return module(x)

    def forward_backward() -> torch.Tensor:
        module.zero_grad(set_to_none=True)
        out = module(x.detach().requires_grad_())
        out.sum().backward()
        return out.detach()

    return forward if direction == "forward" else forward_backward


def _macs(module: Any, site: Site) -> int | None:
    try:
        return sum(module.macs(site.height, site.width).values())
    except (AttributeError, AttnbenchError):
        return None
