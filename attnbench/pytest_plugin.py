"""What attnbench adds to pytest: mechanisms from files, a device clock for benchmarks, records, a table.

Installed as a pytest plug-in, since an option of a conftest is not known when pytest looks for the
conftest, and its value would be taken for a test file. It is loaded in every test run where attnbench is
installed, so nothing heavy is imported and nothing changes before a benchmark of attnbench asks for it.
"""

import contextlib
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from attnbench import plugins
from attnbench.errors import AttnbenchError

NOTE = (
    "Benchmarks run one after another, so drift of the machine falls on each differently: differences of a "
    "few percent mean nothing. Verdicts come from 'attnbench run', which interleaves (docs/measuring.md)."
)
BENCHMARKS = Path(__file__).parent / "harness" / "benchmarks" / "test_attention.py"
if not BENCHMARKS.is_file():  # a checkout without symbolic links, not installed
    BENCHMARKS = Path(__file__).parent.parent / "harness" / "benchmarks" / "test_attention.py"
_WILL_RUN = pytest.StashKey[bool]()
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
        "--attnbench-plugin",
        dest="attnbench_plugins",
        action="append",
        default=[],
        metavar="FILE",
        help="file that registers mechanisms; also --plugin=FILE, unless another suite has that option",
    )
    group.addoption(
        "--attnbench-out",
        default="attnbench-results",
        metavar="DIR",
        help="where benchmarks write their records (default: attnbench-results)",
    )


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(parser: pytest.Parser) -> Generator[None]:
    """Let ``--plugin`` mean ``--attnbench-plugin`` where no plug-in and no conftest has taken that name."""
    yield
    with contextlib.suppress(ValueError):
        parser.addoption("--plugin", dest="attnbench_plugins", action="append", help="see --attnbench-plugin")


def pytest_configure(config: pytest.Config) -> None:
    """Load the files before tests are parametrised over the registry; find the benchmarks if none are named.

    ``pytest --benchmark-only`` without a path means those of attnbench where a file for it is given, and in
    its own checkout; anywhere else it is about somebody else's benchmarks.
    """
    chosen = config.getoption("attnbench_plugins")
    try:
        for path in chosen:
            plugins.add(path)
        plugins.check(chosen)
    except AttnbenchError as error:
        raise pytest.UsageError(str(error)) from error
    unnamed = config.args_source is not pytest.Config.ArgsSource.ARGS
    if unnamed and config.getoption("benchmark_only", False) and (chosen or _is_checkout(config.rootpath)):
        config.args = [str(BENCHMARKS)]


def _is_checkout(folder: Path) -> bool:
    return (folder / "attnbench" / "pytest_plugin.py").is_file()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Remember whether a benchmark of attnbench is among what will run."""
    session.config.stash[_WILL_RUN] = any(item.path.name == BENCHMARKS.name for item in session.items)


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Add what speed depends on, so that pytest-benchmark says when unlike machines are compared.

    Asked for before the first benchmark and after the last; so nothing that a benchmark changes is in it.
    """
    if config.stash.get(_WILL_RUN, False):
        from attnbench.harness import environment

        facts = environment.describe(environment.resolve_device("auto")) | environment.state()
        machine_info["attnbench"] = {name: facts[name] for name in ("device_name", "threads", "libraries")}


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
