"""How fast the device is clocked, as far as it says: by Linux for a processor, by NVML for a GPU."""

import contextlib
import importlib
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attnbench import processor

_CPUFREQ = Path("/sys/devices/system/cpu/cpu0/cpufreq")
_NVIDIA = Path("/proc/driver/nvidia/version")


def describe(gpu: str | None = None) -> dict[str, Any]:
    """Governor and frequencies in MHz of the first processor, or clocks of a GPU, as far as known.

    Args:
        gpu: identifier (UUID) of a GPU, ``None`` for the processor.
    """
    return _processor() if gpu is None else _gpu(gpu)


def driver() -> str | None:
    """Version of NVIDIA's driver, where there is one."""
    found = re.search(r"Kernel Module.*?\s(\d+\.[\d.]+)", _read(_NVIDIA))
    return found.group(1) if found else None


def _processor() -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if governor := _read(_CPUFREQ / "scaling_governor").strip():
        facts["governor"] = governor
    for name, file in (("mhz", "scaling_cur_freq"), ("max_mhz", "cpuinfo_max_freq")):
        if (text := _read(_CPUFREQ / file).strip()).isdigit():
            facts[name] = int(text) / 1000
    if now := processor.facts().get("cpu MHz"):
        facts.setdefault("mhz", float(now))
    return facts


def _gpu(identifier: str) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    with (
        nvml() as library,
        contextlib.suppress(Exception),
    ):  # a GPU does not answer every question
        if library is None:
            return facts
        handle = library.nvmlDeviceGetHandleByUUID(identifier)
        for name, clock in (("sm", library.NVML_CLOCK_SM), ("memory", library.NVML_CLOCK_MEM)):
            facts[f"{name}_mhz"] = library.nvmlDeviceGetClockInfo(handle, clock)
            facts[f"{name}_max_mhz"] = library.nvmlDeviceGetMaxClockInfo(handle, clock)
        facts["power_limit_w"] = library.nvmlDeviceGetPowerManagementLimit(handle) / 1000
        facts["temperature_c"] = library.nvmlDeviceGetTemperature(handle, library.NVML_TEMPERATURE_GPU)
    return facts


def import_nvml() -> Any:
    """The module of ``nvidia-ml-py``, which warns of a package that once had its name.

    Raises:
        ImportError: it is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("pynvml")


@contextlib.contextmanager
def nvml() -> Iterator[Any]:
    """NVIDIA's management library (package ``nvidia-ml-py``), or ``None`` where it does not answer."""
    try:
        library = import_nvml()
        library.nvmlInit()
    except Exception:  # not installed, no driver, or one of another version
        yield None
        return
    try:
        yield library
    finally:
        library.nvmlShutdown()


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
