"""Options of the test run, and what many tests share."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attnbench import plugins
from attnbench.datasets import DATASETS
from attnbench.registry import MECHANISMS

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch starts its threads


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # as in a job that a shell put into the background: what tests start would inherit it, and not stop
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--refresh-tables``."""
    parser.addoption("--refresh-tables", action="store_true", help="rewrite the tables in tests/tables")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """GPU tests skip where there is no GPU; slow ones come first, so that no worker ends with one."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    if any(item.get_closest_marker("gpu") for item in items):
        import torch

        if not torch.cuda.is_available():
            for item in items:
                if item.get_closest_marker("gpu"):
                    item.add_marker(pytest.mark.skip(reason="needs a CUDA device; none is here"))


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
