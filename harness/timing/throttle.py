"""Clock rate, temperature and throttling of a GPU, through NVML where it is installed (extra ``gpu``).

They are only watched: setting clocks needs root, and NVML's sensors are absent under MIG. A block during
which the device was throttled is no measurement of the candidates and is put aside; see
:mod:`attnbench.harness.timing.blocks`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from attnbench.harness.frequencies import import_nvml

_REASONS = {  # bits of nvmlDeviceGetCurrentClocksEventReasons, nvml.h
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
_POWER_CAP = 0x04  # normal under full load: recorded, and no reason to put a block aside


@dataclass(frozen=True)
class Reading:
    """The sensors at one moment; ``throttled`` names why the device is slowed down, empty if it is not."""

    sm_clock_mhz: int
    temperature_c: int
    power_capped: bool = False
    throttled: str = ""


class Sensors(Protocol):
    """What can be read."""

    def read(self) -> Reading | None:
        """The sensors now; None where there are none."""


class _NoSensors:
    def read(self) -> Reading | None:
        return None


NO_SENSORS: Sensors = _NoSensors()


class NvmlSensors:
    """Sensors of one GPU; it is found by its UUID, since NVML does not know CUDA_VISIBLE_DEVICES.

    Args:
        nvml: the module ``pynvml``.
        uuid: of the device, as NVML writes it: ``GPU-...``.
    """

    def __init__(self, nvml: Any, uuid: str) -> None:
        nvml.nvmlInit()
        self._nvml, self._handle = nvml, nvml.nvmlDeviceGetHandleByUUID(uuid)

    def read(self) -> Reading | None:
        """The sensors now."""
        nvml, handle = self._nvml, self._handle
        bits = int(nvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
        return Reading(
            sm_clock_mhz=int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
            temperature_c=int(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
            power_capped=bool(bits & _POWER_CAP),
            throttled=", ".join(name for bit, name in _REASONS.items() if bits & bit),
        )


def sensors_of(device: torch.device, load: Callable[[], Any] | None = None) -> tuple[Sensors, str]:
    """Sensors of a device, and why there are none: empty where there are.

    Args:
        device: CPUs have none.
        load: imports NVML's binding; for tests.
    """
    if device.type != "cuda":
        return NO_SENSORS, "only GPUs have sensors that are read"
    try:
        sensors = NvmlSensors((load or import_nvml)(), f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        sensors.read()
    except ImportError:
        return NO_SENSORS, "nvidia-ml-py is not installed: pip install 'attnbench[gpu]'"
    except Exception as error:  # NVMLError comes from the module that may not be there; MIG, containers
        return NO_SENSORS, f"NVML: {error}"
    return sensors, ""
