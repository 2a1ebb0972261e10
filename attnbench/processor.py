"""What the system says of its first processor. Needs no torch."""

import functools
import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


@functools.cache
def facts() -> dict[str, str]:
    """The first processor's lines of Linux's ``/proc/cpuinfo``, by their names; empty elsewhere."""
    try:
        first = _CPUINFO.read_text(encoding="utf-8").partition("\n\n")[0]
    except OSError:
        return {}
    return {
        name.strip(): text.strip() for name, _, text in (line.partition(":") for line in first.splitlines())
    }


def name() -> str:
    """What the processor is called."""
    return facts().get("model name") or platform.processor() or platform.machine()
