"""What attnbench adds to pytest: mechanisms from files, a device clock for benchmarks, records, a table.

Installed as a pytest plug-in, since an option of a conftest is not known when pytest looks for the
conftest, and its value would be taken for a test file. It is loaded in every test run where attnbench is
installed, so nothing heavy is imported and nothing changes before a benchmark of attnbench asks for it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attnbench import registry

NOTE = (
    "Benchmarks run one after another, so drift of the machine falls on each differently: differences of a "
    "few percent mean nothing. Verdicts come from 'attnbench run', which interleaves (docs/measuring.md)."
)
_timer: list[tuple[Callable[[], float], str]] = []


def device_timer() -> float:
    """Seconds on the device's clock, after everything launched has finished.

    For ``@pytest.mark.benchmark(timer=device_timer)`` and
    ``--benchmark-timer=attnbench.pytest_plugin.device_timer``, in any project.
    """
    return _made()[0]()


def clock() -> str:
    """What :func:`device_timer` reads: ``CUDA events`` or ``perf_counter``."""
    return _made()[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("attnbench")
    group.addoption(
        "--plugin", action="append", default=[], metavar="FILE", help="file that registers mechanisms"
    )
    group.addoption(
        "--attnbench-out",
        default="attnbench-results",
        metavar="DIR",
        help="where benchmarks write their records (default: attnbench-results)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Load the files before tests are parametrised over the registry."""
    for path in config.getoption("--plugin"):
        registry.add_plugin(path)


@pytest.fixture
def attnbench_out(request: pytest.FixtureRequest) -> Path:
    """The folder of ``--attnbench-out``."""
    return Path(request.config.getoption("--attnbench-out"))


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(
    config: pytest.Config, benchmarks: list[Any], output_json: dict[str, Any]
) -> None:
    """Say which clock was read, and what the figures are not good for."""
    if _ours(config):
        output_json["attnbench"] = {"clock": clock(), "note": NOTE}


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """A table with what pytest-benchmark's has no columns for."""
    ours = _ours(config)
    if not ours:
        return
    width = max(len(bench.name) for bench in ours)
    terminalreporter.section(f"attnbench: device time by {clock()}, MACs, memory")
    header = f"{'name':{width}} {'ms':>9} {'MMAC/image':>11} {'peak MiB':>9}  implementation"
    terminalreporter.line(header)
    for bench in sorted(ours, key=lambda bench: (str(bench.group), bench.extra_info["device_seconds"])):
        info = bench.extra_info
        macs = "-" if info["macs_per_image"] is None else f"{info['macs_per_image'] / 1e6:,.1f}"
        terminalreporter.line(
            f"{bench.name:{width}} {info['device_seconds'] * 1e3:9.3f} {macs:>11} "
            f"{info['peak_memory_bytes'] / 2**20:9.1f}  {info['implementation']}"
        )
    terminalreporter.line(NOTE)


def _ours(config: pytest.Config) -> list[Any]:
    """Benchmarks of this session that :mod:`attnbench.harness.benchmarks` has measured."""
    session = getattr(config, "_benchmarksession", None)
    benches = getattr(session, "benchmarks", [])
    return [bench for bench in benches if not bench.has_error and "device_seconds" in bench.extra_info]


def _made() -> tuple[Callable[[], float], str]:
    if not _timer:
        from attnbench.harness.timing import device_timer

        _timer.append(device_timer.make())
    return _timer[0]
