"""C++ compiled on first use: what is kept, what is said when it cannot be."""

import ctypes
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from attnbench import native
from attnbench.errors import ImplementationError

GOOD = 'extern "C" __attribute__((visibility("default"))) int answer() { return 42; }\n'
pytestmark = pytest.mark.skipif(
    not any(native.shutil.which(name) for name in native.COMPILERS), reason="there is no C++ compiler"
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "answer.cpp"
    path.write_text(GOOD)
    return path


def libraries() -> list[Path]:
    return sorted(native.cache_folder().glob("*.so"))


def program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_it_is_built_once_and_taken_from_the_cache_then(source, monkeypatch):
    assert native.load("answer", [source]).answer() == 42
    (built,) = libraries()
    stamp = built.stat().st_mtime_ns
    monkeypatch.setattr(native, "_compile", lambda *_: pytest.fail("compiled again"))
    assert native.load("answer", [source]).answer() == 42
    assert built.stat().st_mtime_ns == stamp


def test_another_source_header_or_flag_is_another_library(source, tmp_path, monkeypatch):
    header = tmp_path / "answer.h"
    header.write_text("")
    native.load("answer", [source, header])
    header.write_text("// changed\n")
    native.load("answer", [source, header])
    source.write_text(GOOD.replace("42", "43"))
    assert native.load("answer", [source, header]).answer() == 43
    monkeypatch.setattr(native, "FLAGS", (*native.FLAGS, "-DX"))
    native.load("answer", [source, header])
    assert len(libraries()) == 4


def test_a_processor_of_another_kind_gets_its_own(source, monkeypatch):
    native.load("answer", [source])
    monkeypatch.setattr(native, "_processor", lambda: "another")
    native.load("answer", [source])
    assert len(libraries()) == 2


def test_no_compiler(source, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        ImplementationError, match=r"no C\+\+ compiler \(looked for c\+\+, g\+\+, clang\+\+\)"
    ):
        native.load("answer", [source])


def test_a_compiler_that_is_not_there(source, monkeypatch):
    monkeypatch.setenv("CXX", "/nonexistent")
    with pytest.raises(ImplementationError, match="CXX names, '/nonexistent', is not a program"):
        native.load("answer", [source])


def test_a_compiler_that_fails_is_quoted_and_leaves_nothing(source, monkeypatch, tmp_path):
    broken = program(tmp_path / "broken", 'echo "warming up" >&2; echo "fatal error: no licence" >&2; exit 1')
    monkeypatch.setenv("CXX", str(broken))
    with pytest.raises(ImplementationError, match=r"cannot compile answer-.*: fatal error: no licence$"):
        native.load("answer", [source])
    assert not libraries()
    assert not list(native.cache_folder().glob("build-*"))


def test_an_error_in_the_source_is_quoted(source):
    source.write_text("int answer( {\n")
    with pytest.raises(ImplementationError, match=r"answer\.cpp:1:.*error: "):
        native.load("answer", [source])


def test_a_compiler_that_succeeds_without_output_is_an_error(source, monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", str(program(tmp_path / "lazy", "exit 0")))
    with pytest.raises(ImplementationError, match="exit status 0 and no message"):
        native.load("answer", [source])


def test_options_in_cxx_are_used(source, monkeypatch):
    monkeypatch.setenv("CXX", f"{native.find_compiler()[0]} -DEXTRA=1")
    source.write_text(GOOD.replace("42", "EXTRA"))
    assert native.load("answer", [source]).answer() == 1


def test_a_cache_that_cannot_be_written(source, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ATTNBENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(ImplementationError, match="ATTNBENCH_CACHE names another folder"):
        native.load("answer", [source])


def test_processes_at_once_build_once(source, tmp_path):
    compiler = native.find_compiler()[0]
    count = tmp_path / "count"
    counting = program(
        tmp_path / "counting",
        f'case "$*" in *-shared*) echo x >> {count}; sleep 0.5;; esac; exec {compiler} "$@"',
    )
    code = (
        "import pathlib, sys; from attnbench import native; "
        "print(native.load('a', [pathlib.Path(sys.argv[1])]).answer())"
    )
    environment = os.environ | {"CXX": str(counting)}
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(source)], env=environment, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    assert [run.communicate()[0] for run in runs] == ["42\n"] * 3
    assert count.read_text() == "x\n"


def test_cache_folder(monkeypatch):
    monkeypatch.delenv("ATTNBENCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert native.cache_folder() == Path("/cache/attnbench")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert native.cache_folder() == Path.home() / ".cache" / "attnbench"


def test_threads_are_those_of_the_openmp_that_torch_has_loaded():
    import torch

    if "OpenMP" not in torch.__config__.parallel_info().partition("Environment")[0]:
        pytest.skip("torch was built without OpenMP")
    address = native.thread_pool()
    assert address
    seen = []
    body = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: seen.append(1))
    parallel = ctypes.CFUNCTYPE(None, type(body), ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)(address)
    parallel(body, None, 2, 0)
    assert len(seen) == 2
