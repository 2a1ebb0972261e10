"""Every fused kernel of the Swin-T layout, compiled for GPUs that are not here."""

import csv
import importlib.metadata
from pathlib import Path

import pytest

from attnbench.results.scripts import bra_kernels
from attnbench.results.scripts.kernel_resources import missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=f"no kernel can be compiled: {missing()}")
TRITON = tuple(map(int, importlib.metadata.version("triton").split(".")[:2])) if not missing() else (0, 0)
TABLE = Path(bra_kernels.__file__).parents[1] / "kernels.csv"


def recorded() -> list[dict[str, str]]:
    with TABLE.open() as file:
        return list(csv.DictReader(file))


def most_registers(dtype: str, capability: int) -> int:
    """168 leave room for three programs of four warps. float32 operands lie in registers but on Hopper."""
    return 224 if dtype == "float32" and capability != 90 else 168


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("capability", bra_kernels.CAPABILITIES)
def test_forward_kernels_neither_spill_nor_crowd_and_all_read_wide(dtype, capability):
    """float16 compiles to what bfloat16 does, instruction by instruction; the table holds it too."""
    if dtype == "float32" and TRITON < (3, 9):
        pytest.skip(
            "float32 is held to the compiler of results/kernels.csv, Triton 3.9; 3.8 spills some bytes"
        )
    found = list(bra_kernels.rows(dtype, capability))
    assert {row["stage"] for row in found} == {1, 2, 3, 4}
    for row in found:
        if row["kernel"] in ("bits", "inverse", "choice"):  # a few KB each
            continue
        assert row["wide_loads"] >= (1 if row["kernel"] == "means" else 4), row
        if row["kernel"] == "forward":
            assert row["stack_bytes"] == row["spills"] == 0, row
            assert row["registers"] <= most_registers(dtype, capability), row
        if capability >= 90:
            assert row["spills"] == 0, row
        if row["kernel"] not in ("backward_lepe", "means"):
            assert row["products"] > 0, row  # the matrix units, float32 too


def test_the_table_is_complete_and_keeps_to_the_limits():
    """``attnbench.results.scripts.bra_kernels`` writes it; compilers differ, so its numbers may too."""
    table = recorded()
    kernels = {"means", "choice", "forward", "backward_q", "backward_kv", "backward_lepe"}
    assert {
        (row["capability"], row["dtype"], row["stage"], row["kernel"])
        for row in table
        if row["kernel"] in kernels
    } == {
        (str(capability / 10), dtype, stage, kernel)
        for capability in bra_kernels.CAPABILITIES
        for dtype in bra_kernels.DTYPES
        for stage in "1234"
        for kernel in kernels
    }
    forward = [row for row in table if row["kernel"] == "forward"]
    for row in forward:
        assert int(row["registers"]) <= most_registers(row["dtype"], round(10 * float(row["capability"]))), (
            row
        )
        assert row["stack_bytes"] == "0", row
    for row in table:  # LePE's weight in float32 on sm_100: 6 instructions
        assert int(row["spills"]) <= {"8.0": 12, "9.0": 0, "10.0": 6}[row["capability"]], row
