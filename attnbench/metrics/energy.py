"""Joules per image, read from the counters of the device: NVML on CUDA, RAPL on a CPU.

NVML counts what the whole board drew (``nvmlDeviceGetTotalEnergyConsumption``, millijoules, Volta or newer).
RAPL counts what the processor packages drew (``/sys/class/powercap``, microjoules): all that ran on them, so
a machine that is busy with something else gives more. Where neither can be read, the record says why.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from attnbench.errors import AttnbenchError
from attnbench.metrics import Bench, Value, register_metric

if TYPE_CHECKING:
    import torch

    from attnbench.record import Cell, Measurement

RAPL = Path("/sys/class/powercap")
_SECONDS = 2.0
"""How long steps are repeated: RAPL is updated every millisecond, NVML about every 100."""


@register_metric(
    "energy",
    title="energy",
    values=[
        Value(
            "energy",
            unit="J/image",
            heading="Energy {setting} (J/image)",
            column="energy_{suffix}_j_per_image",
            digits=2,
            tolerance=0.05,
        )
    ],
    order=45,
    default=False,  # few machines let a user read it
    per_setting=True,
    with_batch=True,
)
def measure(cell: "Cell", bench: Bench) -> "list[Measurement]":
    """Repeat the cell's step for about two seconds and read the counter before and after.

    Raises:
        AttnbenchError: the energy of this device cannot be read here.
    """
    from attnbench.harness.models.backbone import executed_impl
    from attnbench.harness.setting import make_step
    from attnbench.record import Measurement

    model, setting = bench.model(cell), bench.setting(cell)
    counter, step = _counter(setting.device), make_step(model, model.layout, setting)
    step()
    _wait(setting.device)
    begun, joules, steps = time.perf_counter(), counter(), 0
    while time.perf_counter() - begun < _SECONDS:
        step()
        _wait(setting.device)
        steps += 1
    used, images = counter() - joules, steps * setting.batch_size
    details = {"joules": used, "seconds": time.perf_counter() - begun, "images": images}
    ran = executed_impl(model, setting)
    return [Measurement.of(cell, "energy", used / images, "J/image", implementation=ran, details=details)]


def _wait(device: "torch.device") -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


def _counter(device: "torch.device") -> Callable[[], float]:
    """What reads the joules that a device has used since some moment."""
    if device.type == "cuda":
        return _nvml(device)
    zones = sorted(RAPL.glob("intel-rapl:[0-9]*"))
    packages = [zone / "energy_uj" for zone in zones if zone.name.count(":") == 1]
    if not packages:
        raise AttnbenchError(
            f"the energy of this processor cannot be read here: {RAPL} has no intel-rapl zone "
            "(a virtual machine, or a kernel without powercap); measure on the machine itself"
        )
    tops = [int((path.parent / "max_energy_range_uj").read_text()) for path in packages]

    def read() -> list[int]:
        try:
            return [int(path.read_text()) for path in packages]
        except OSError as error:
            raise AttnbenchError(
                f"the energy of this processor cannot be read here: {error.filename}: {error.strerror}; "
                "it takes root, or read permission on that file"
            ) from error

    last, total = read(), 0

    def joules() -> float:
        nonlocal last, total
        now = read()
        total += sum((new - old) % (top + 1) for new, old, top in zip(now, last, tops, strict=True))
        last = now
        return total / 1e6

    return joules


def _nvml(device: "torch.device") -> Callable[[], float]:
    from attnbench.harness.frequencies import import_nvml

    try:
        pynvml = import_nvml()
    except ImportError as error:
        raise AttnbenchError(
            "the energy of a CUDA device is read through NVML: pip install 'attnbench[gpu]'"
        ) from error
    import torch

    pynvml.nvmlInit()
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    handle = pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")
    try:
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError as error:
        raise AttnbenchError(f"the energy of this device cannot be read here: NVML says: {error}") from error
    return lambda: float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3
