"""What machine this is, with which libraries, from which commit."""

import ctypes
import functools
import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch

from attnbench import processor
from attnbench.errors import AttnbenchError
from attnbench.harness import frequencies

_LIBRARIES = ("torch", "timm", "torchvision", "numpy", "triton", "natten", "xformers")
_ALLOCATOR = ("MALLOC_CONF", "LD_PRELOAD")
_THREADS = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "OMP_PROC_BIND", "KMP_AFFINITY", "KMP_BLOCKTIME")
_MALLOPT = {"mmap_max": (-4, 0), "trim_threshold": (-1, -1), "top_pad": (-2, 1 << 28)}
_pinned: dict[str, int] = {}


def resolve_device(name: str) -> torch.device:
    """``auto``, ``cpu`` or ``cuda`` (``cuda:1``) as a device that is here.

    Raises:
        AttnbenchError: the name is unknown, or the device is absent.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise AttnbenchError(f"unknown device {name!r}; expected cpu, cuda, cuda:N or auto")
    device = torch.device(name)
    if device.type == "cuda" and (
        not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()
    ):
        raise AttnbenchError(f"device {name!r} is absent here; use --device cpu or auto")
    return device


def machine(device: torch.device) -> str:
    """A short name of the computer as far as it bears on speed, e.g. ``amd-epyc-2-threads``."""
    if device.type == "cuda":
        return _slug(torch.cuda.get_device_name(device))
    return _slug(f"{processor.name()} {torch.get_num_threads()} threads")


def pin_allocator() -> None:
    """Keep freed memory in the process, where the C library is glibc.

    Without it every large tensor is mapped and paged in anew, which alone doubles the time of some
    mechanisms; see docs/measuring.md. Recorded as ``allocator``.
    """
    if platform.libc_ver()[0] != "glibc" or _pinned:
        return
    libc = ctypes.CDLL(None)
    _pinned.update({name: value for name, (code, value) in _MALLOPT.items() if libc.mallopt(code, value)})


def trim_allocator() -> None:
    """Give back what :func:`pin_allocator` keeps: other processes need it."""
    if _pinned:
        ctypes.CDLL(None).malloc_trim(0)


def allocator_is_pinned() -> bool:
    """Whether :func:`pin_allocator` has been called, and had something to do."""
    return bool(_pinned)


@functools.cache
def describe(device: torch.device) -> dict[str, Any]:
    """Machine, device and its clocks, library versions, commit: the provenance that records share."""
    facts: dict[str, Any] = {
        "attnbench": _version("attnbench"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else processor.name(),
        "cpu_count": os.cpu_count(),
        "libraries": {name: version for name in _LIBRARIES if (version := _version(name))},
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "cudnn": torch.backends.cudnn.version() if device.type == "cuda" else None,
        "driver": frequencies.driver(),
        "clocks": frequencies.describe(_uuid(device)),
    }
    return facts | commit()


def state() -> dict[str, Any]:
    """What this process has set that bears on a number: precision, determinism, threads, allocator."""
    affinity = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    return {
        "threads": torch.get_num_threads(),
        "affinity": affinity,
        "thread_settings": {name: os.environ[name] for name in _THREADS if name in os.environ},
        "tf32_matmul": torch.backends.cuda.matmul.allow_tf32,
        "tf32_cudnn": torch.backends.cudnn.allow_tf32,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "allocator": _pinned | {name: os.environ[name] for name in _ALLOCATOR if name in os.environ},
    }


@functools.cache
def commit() -> dict[str, Any]:
    """Commit of the checkout that attnbench runs from and whether it was changed; empty if installed."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return {}
    try:
        head = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
        status = subprocess.run(
            ["git", "-C", str(root), "status", "--porcelain"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"commit": head.stdout.strip(), "dirty": bool(status.stdout.strip())}


def isolation(in_process: bool) -> dict[str, str]:
    """Whether a cell shares its process with others, as a record says it."""
    return {"isolation": "none" if in_process else "process"}


def _uuid(device: torch.device) -> str | None:
    """What NVML knows a GPU by: its numbering is not torch's where some are hidden."""
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}" if device.type == "cuda" else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
