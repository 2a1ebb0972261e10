"""Three ways to choose the batch: one for all, the largest that fits, and one image whose answer is awaited.

One batch for all is unfair to whoever would rather have another; the largest that fits is what a training
run would take; a single image tells latency.
"""

from collections.abc import Callable

import psutil
import torch

REGIMES = ("fixed", "largest", "latency")
LIMIT = {"cpu": 256, "cuda": 4096}
"""Images at which the search ends: a larger batch changes no rate by then."""
_HEADROOM = 20  # one part of the largest batch that ran once is left free: allocators fragment
_SHARE = 0.5  # of the memory that is available on a CPU: what exceeds it is swapped, or kills


def largest_batch(fits: Callable[[int], bool], limit: int) -> int:
    """The largest batch that fits, to within one part in sixteen: doubling, then bisection.

    Args:
        fits: whether a batch of so many images runs; must survive one that does not.
        limit: not to be exceeded.

    Raises:
        MemoryError: not even one image fits.
    """
    if not fits(1):
        raise MemoryError("not even a batch of one image fits")
    good = 1
    while good < limit and fits(min(2 * good, limit)):
        good = min(2 * good, limit)
    bad = min(2 * good, limit + 1)
    while bad - good > max(1, good // 16):
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good if good == limit else good - good // _HEADROOM


def cpu_limit(bytes_of_one: int, bytes_of_two: int, available: int) -> int:
    """How many images fit into a share of the available memory, from the peaks of two small batches."""
    per_image = max(bytes_of_two - bytes_of_one, 1)
    rest = _SHARE * available - (bytes_of_one - per_image)
    return max(0, min(LIMIT["cpu"], int(rest / per_image)))


def memory() -> tuple[int, int]:
    """Bytes of this computer's memory: what can be had without swapping, and all of it."""
    found = psutil.virtual_memory()
    return found.available, found.total


def ran_out(error: BaseException) -> bool:
    """Whether an exception says that memory ran out."""
    kinds = (torch.OutOfMemoryError, MemoryError)
    return isinstance(error, kinds) or "can't allocate memory" in str(error)
