"""One benchmark per mechanism × stage of the Swin-T layout × forward / forward and backward.

Time is the device's: a reading of the timer waits for the GPU and is the GPU's own. Run, from anywhere,
``pytest --benchmark-only --pyargs attnbench -k "bra and stage3"``; one's own file is given with
``--attnbench-plugin=FILE``, and then nothing else need be named. MACs, memory and the implementation that ran
stand in ``extra_info`` and in the records below ``--attnbench-out``.
"""

from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from attnbench import Site, names
from attnbench.harness import benchmarks
from attnbench.layouts.swin import SWIN_T
from attnbench.pytest_plugin import device_timer

# The second block of each stage: alternating mechanisms shift, turn or deform there.
SITES = [site for site in SWIN_T.sites(224, 224) if site.block == 1]


@pytest.mark.benchmark(timer=device_timer)
@pytest.mark.parametrize("direction", ["forward", "forward_backward"])
@pytest.mark.parametrize("site", SITES, ids=lambda site: f"stage{site.stage + 1}")
@pytest.mark.parametrize("name", names())
def test_attention(
    benchmark: BenchmarkFixture, name: str, site: Site, direction: str, attnbench_out: Path
) -> None:
    out = benchmarks.attention(benchmark, device_timer, name, site, direction, attnbench_out)
    assert torch.isfinite(out).all()
