"""C++ that is compiled on first use, and kept.

A library is a few source files with a plain C interface: no Python and no torch headers, so that it builds
in seconds with any GCC or Clang, needs no ninja, and outlives an update of torch. It is compiled for the
processor it runs on and kept in a cache folder (ATTNBENCH_CACHE, or ``attnbench`` in the user's
cache folder) under a key of all that could change it: sources, compiler and its version, flags, processor.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import platformdirs

from attnbench import processor
from attnbench.errors import ImplementationError

COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-ffp-contract=fast", "-fPIC", "-shared", "-fvisibility=hidden")
BUILD_LIMIT_S = 300


def load(name: str, sources: Sequence[Path]) -> ctypes.CDLL:
    """The library made of ``sources``, compiled if the cache does not hold it.

    Safe to call from several processes at once: one compiles, the others wait for it.

    Args:
        name: what to call the file in the cache.
        sources: the ``.cpp`` files to compile, and the headers of their own that they include.

    Raises:
        ImplementationError: there is no compiler, it fails (the message has its first error), or the cache
            folder cannot be written.
    """
    compiler = find_compiler()
    flags = (*FLAGS, _native_flag())
    path = cache_folder() / f"{name}-{_key(compiler, flags, sources)}.so"
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(path.with_suffix(".lock")):
                if not path.exists():
                    _compile([*compiler, *flags], [s for s in sources if s.suffix == ".cpp"], path)
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise ImplementationError(
            f"cannot build or load {path}: {error}; ATTNBENCH_CACHE names another folder"
        ) from error


def find_compiler() -> list[str]:
    """The command of the C++ compiler: $CXX where that is set, else the first of COMPILERS on the path.

    Raises:
        ImplementationError: there is none.
    """
    chosen = shlex.split(os.environ.get("CXX", ""))
    if chosen:
        if shutil.which(chosen[0]) is None:
            raise ImplementationError(
                f"the C++ compiler that CXX names, {chosen[0]!r}, is not a program here"
            )
        return chosen
    for name in COMPILERS:
        if path := shutil.which(name):
            return [path]
    raise ImplementationError(
        f"there is no C++ compiler (looked for {', '.join(COMPILERS)}); install one, or name it in CXX"
    )


def cache_folder() -> Path:
    """Where compiled libraries are kept; it need not exist."""
    if chosen := os.environ.get("ATTNBENCH_CACHE"):
        return Path(chosen)
    return platformdirs.user_cache_path("attnbench", appauthor=False)


@functools.cache
def thread_pool() -> int:
    """Address of ``GOMP_parallel`` in the OpenMP library that torch has loaded; 0 where it has none.

    Libraries run their threads through it. So torch's own threads do the work, whichever compiler built the
    library: a second pool, even a second OpenMP, would compete with torch's, which spin for a while after
    each operator. GNU's and LLVM's OpenMP both have this entry point; without it the work is done in the
    calling thread.
    """
    entry = getattr(ctypes.CDLL(None), "GOMP_parallel", None)  # torch loads its OpenMP for all to see
    return ctypes.cast(entry, ctypes.c_void_p).value or 0 if entry is not None else 0


def _compile(command: Sequence[str], sources: Sequence[Path], path: Path) -> None:
    """Compile to ``path``, which appears whole or not at all."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="build-") as folder:
        made = Path(folder) / path.name
        arguments = [*command, *map(str, sources), "-o", str(made)]
        try:
            done = subprocess.run(arguments, capture_output=True, text=True, timeout=BUILD_LIMIT_S)
        except subprocess.TimeoutExpired as error:
            raise ImplementationError(f"{command[0]} took more than {BUILD_LIMIT_S} s") from error
        if done.returncode or not made.exists():
            raise ImplementationError(f"{command[0]} cannot compile {path.stem}: {_first_error(done)}")
        os.replace(made, path)


def _first_error(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    for line in lines:
        if "error" in line.lower():
            return line
    return lines[0] if lines else f"exit status {done.returncode} and no message"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of this name against all processes; it is released even by a kill."""
    import fcntl

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _native_flag() -> str:
    """Compile for this processor. On Arm and Power that is spelt another way."""
    return "-march=native" if platform.machine().lower() in ("x86_64", "amd64", "i686") else "-mcpu=native"


def _key(compiler: Sequence[str], flags: Sequence[str], sources: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for part in (*compiler, _version(tuple(compiler)), *flags, _processor()):
        digest.update(part.encode() + b"\0")
    for source in sorted(sources):
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


@functools.cache
def _version(compiler: tuple[str, ...]) -> str:
    try:
        done = subprocess.run([*compiler, "--version"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ImplementationError(f"{compiler[0]} --version does not run: {error}") from error
    return done.stdout


@functools.cache
def _processor() -> str:
    """Model and instruction sets, so that machines which share a home folder do not share a library."""
    names = [name for name in processor.facts() if name.startswith(("model", "flags", "Features", "CPU"))]
    told = "\n".join(f"{name}: {processor.facts()[name]}" for name in names)
    return told or platform.platform() + platform.processor()
