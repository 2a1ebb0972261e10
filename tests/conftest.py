"""Options of the test run; benchmarks only when they are asked for."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attnbench import plugins
from attnbench.datasets import DATASETS
from attnbench.registry import MECHANISMS

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch starts its threads


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--refresh-tables``."""
    parser.addoption("--refresh-tables", action="store_true", help="rewrite the tables in tests/tables")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Benchmarks or tests, not both at once; GPU tests skip where there is no GPU."""
    folder = Path(__file__).parent / "benchmarks"
    only = bool(config.getoption("benchmark_only", False))
    if only or not _asked_for(config, folder):
        left_out = [item for item in items if (folder in item.path.parents) != only]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    if any(item.get_closest_marker("gpu") for item in items):
        import torch

        if not torch.cuda.is_available():
            for item in items:
                if item.get_closest_marker("gpu"):
                    item.add_marker(pytest.mark.skip(reason="needs a CUDA device; none is here"))


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """Add what speed depends on, so that pytest-benchmark says when unlike machines are compared.

    Asked for before the first benchmark and after the last; so nothing that a benchmark changes is in it.
    """
    from attnbench.harness import environment

    facts = environment.describe(environment.resolve_device("auto")) | environment.state()
    machine_info["attnbench"] = {name: facts[name] for name in ("device_name", "threads", "libraries")}


def _asked_for(config: pytest.Config, folder: Path) -> bool:
    paths = (Path(str(argument).partition("::")[0]).resolve() for argument in config.args)
    return any(path == folder or folder in path.parents for path in paths)


@pytest.fixture
def isolated_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Registries of their own for a test that adds to them; the real ones come back afterwards."""
    monkeypatch.setattr(plugins, "_files", [])
    both: tuple[plugins.Registry[Any], ...] = (MECHANISMS, DATASETS)
    for registry in both:
        # Modules stay imported, so what they registered stays too.
        monkeypatch.setattr(registry, "state", plugins.State(registered=registry.state.registered))
    yield
    for registry in both:
        entered = registry.state.registered
        for name in [n for n, (builder, _, _) in entered.items() if not _is_ours(builder.__module__)]:
            del entered[name]


def _is_ours(module: str) -> bool:
    return module.startswith(("attnbench.mechanisms.", "attnbench.harness.data."))


@pytest.fixture(scope="module")
def odd_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the calls are made: some files that are not what they seem."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "file").write_text("no JSON\n")
    (folder / "empty.jsonl").touch()
    (folder / "folder").mkdir()
    (folder / "bytes.pth").write_bytes(bytes(range(256)))
    os.mkfifo(folder / "fifo.jsonl")
    shutil.copy(Path(__file__).parent / "records" / "schema_1.jsonl", folder / "records.jsonl")
    return folder
