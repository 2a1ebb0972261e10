"""pytest --benchmark-only as a user runs it: the clock, the records, the comparison, a file of one's own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from attnbench import store
from attnbench.harness.timing.device_timer import DeviceTimer

pytestmark = pytest.mark.alone

ROOT = Path(__file__).parent.parent

LATER = '''
import time
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from attnbench.harness.timing.device_timer import DeviceTimer


class Device:
    """Runs what is launched in a thread of its own, one after another, 30 ms each."""

    def __init__(self):
        self.queue, self.pending = ThreadPoolExecutor(1), []

    def launch(self):
        self.pending.append(self.queue.submit(time.sleep, 0.03))  # returns at once

    def mark(self):
        wait(self.pending)
        self.pending.clear()
        return time.perf_counter()

    def between(self, earlier, later):
        return later - earlier


device = Device()
timer = DeviceTimer(device)


@pytest.mark.benchmark(timer=timer)
def test_by_the_device(benchmark):
    benchmark.pedantic(device.launch, rounds=3, iterations=4)


@pytest.mark.benchmark(timer=timer, min_rounds=2, max_time=0.1)
def test_by_the_device_calibrated(benchmark):
    benchmark(device.launch)


@pytest.mark.benchmark(timer=time.perf_counter)
def test_by_the_host(benchmark):
    benchmark.pedantic(device.launch, rounds=3, iterations=4)
    device.mark()
'''

MEAN = """
from torch import Tensor, nn
from attnbench import Site, register_mechanism


@register_mechanism("mean_of_a_user", pattern="static", year=2026)
class Mean(nn.Module):
    def __init__(self, site: Site) -> None:
        super().__init__()
        self.dim, self.proj = site.dim, nn.Linear(site.dim, site.dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x - x.mean((1, 2), keepdim=True))

    def macs(self, height: int, width: int) -> dict[str, int]:
        return {"projection": height * width * self.dim**2}
"""


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env=dict(os.environ))


def test_a_reading_is_the_devices_own_time() -> None:
    class Device:
        """Its clock runs twice as fast as work is launched, and it is asked for in small differences."""

        now, asked = 0.0, []

        def mark(self) -> float:
            return self.now

        def between(self, earlier: float, later: float) -> float:
            self.asked.append(later - earlier)
            return later - earlier

    device = Device()
    timer = DeviceTimer(device)
    readings = []
    for work in (0.0, 0.5, 3600.0, 0.25):
        device.now += work
        readings.append(timer())
    assert readings == [0.0, 0.5, 3600.5, 3600.75]
    assert device.asked == [0.5, 3600.0, 0.25]  # never the time since the first


def test_what_is_measured_is_the_work_and_not_its_launch(tmp_path: Path) -> None:
    (tmp_path / "test_later.py").write_text(LATER)
    result = run("--benchmark-only", "--benchmark-json=out.json", "test_later.py", cwd=tmp_path)
    assert result.returncode == 0, result.stdout
    found = json.loads((tmp_path / "out.json").read_text())
    median = {bench["name"]: bench["stats"]["median"] for bench in found["benchmarks"]}
    assert 0.03 <= median["test_by_the_device"] < 0.3
    assert 0.03 <= median["test_by_the_device_calibrated"] < 0.3
    assert median["test_by_the_host"] < 0.01  # the launches
    assert "attnbench" not in found  # another project's benchmarks are left as they are


@pytest.mark.slow
def test_a_run_keeps_records_and_can_be_compared(tmp_path: Path) -> None:
    (tmp_path / "mean_of_a_user.py").write_text(MEAN)
    arguments = [
        "--pyargs",
        "attnbench",
        "--benchmark-only",
        f"--plugin={tmp_path / 'mean_of_a_user.py'}",
        f"--attnbench-out={tmp_path / 'results'}",
        f"--benchmark-storage=file://{tmp_path / 'saved'}",
        "-k",
        "(mean_of_a_user or identity) and stage4",
    ]
    first = run(*arguments, "--benchmark-save=before", cwd=tmp_path)
    assert first.returncode == 0, first.stdout
    assert "attnbench: device time by perf_counter, MACs, memory" in first.stdout
    assert "Verdicts come from 'attnbench run'" in first.stdout
    (saved,) = (tmp_path / "saved").rglob("*before.json")
    found = json.loads(saved.read_text())
    assert found["attnbench"]["clock"] == "perf_counter"
    assert {"device_name", "threads", "libraries"} <= set(found["machine_info"]["attnbench"])
    benches = {bench["name"]: bench for bench in found["benchmarks"]}
    own = benches["test_attention[mean_of_a_user-stage4-forward]"]
    assert own["group"] == "stage 4 forward"
    assert own["options"]["timer"] == "device_timer"
    info = own["extra_info"]
    assert info["macs_per_image"] == 49 * 768**2
    assert info["peak_memory_bytes"] > 4 * 768**2
    assert info["implementation"] == "eager"
    assert info["device_seconds"] == pytest.approx(own["stats"]["median"])
    records = store.read(tmp_path / "results" / "records", pytest.fail)
    assert {(m.cell.mechanism, m.cell.mode) for m in records} == {
        (name, direction)
        for name in ("mean_of_a_user", "identity")
        for direction in ("forward", "forward_backward")
    }
    assert all(m.cell.layout == "swin_t.stage4" and m.unit == "s" and len(m.samples) == 5 for m in records)
    second = run(*arguments, "--benchmark-compare=0001", cwd=tmp_path)
    assert second.returncode == 0, second.stdout
    assert "test_attention[mean_of_a_user-stage4-forward] (0001_before)" in second.stdout
    assert "machine_info is different" not in second.stdout
