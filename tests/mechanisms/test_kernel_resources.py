"""Compile reports, on a kernel whose loads are known."""

import subprocess
import sys

import pytest

from attnbench.results.scripts.kernel_resources import missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=f"no kernel can be compiled: {missing()}")

PROGRAM = """
import sys, torch, triton, triton.language as tl
from attnbench.results.scripts.kernel_resources import resources

@triton.jit
def copy(source, target, rows, stride, BLOCK: tl.constexpr):
    at = tl.program_id(0) * stride + tl.arange(0, BLOCK)
    tl.store(target + at, tl.load(source + at))

at = torch.empty(1, device="meta")
for stride in (64, 63):
    found = resources(copy, (at, at, 4, stride), {"BLOCK": 1024}, capability=90, warps=4, stages=1)
    print(found.loads, found.wide_loads, found.stack_bytes, found.spills, found.products)
"""


def test_loads_are_wide_only_where_rows_are_aligned(tmp_path):
    """1024 values by 128 threads: two loads of 128 bits a thread, or eight of 32."""
    path = tmp_path / "program.py"  # Triton reads a kernel's source from its file
    path.write_text(PROGRAM)
    done = subprocess.run([sys.executable, "-W", "ignore", path], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["2 2 0 0 0", "8 0 0 0 0"], done.stderr
