"""Where the memory of a process lies: drawn anew for each, so that no candidate keeps a good or bad place.

Processes forked from one server have one layout of addresses, and who is started in turn is given the pages
of memory that the one before gave back. Both decide what is in the way of what in the caches. What a place
costs or gains a model would be in the ratio of every process, and in no interval (Mytkowicz et al., 2009;
docs/measuring.md).
"""

import mmap
import random
import secrets
import sys

_HUGE_PAGE = 1 << 21
_AREA = 1 << 26
_CHUNK = 1 << 18
"""Small enough to draw from, large enough that pages lie together as the kernel gives them: drawn one by one
they cost a step of 3 ms two percent."""
_shift = bytearray()


def shift_heap(shift: int | None = None) -> None:
    """Begin the heap elsewhere: what is allocated from now on lies up to 2 MiB further on.

    Of use wherever tensors come from the heap, that is after
    :func:`attnbench.harness.environment.pin_allocator`; harmless elsewhere.

    Args:
        shift: bytes; None to draw them.
    """
    global _shift
    _shift = bytearray(64 * secrets.randbelow(_HUGE_PAGE // 64) if shift is None else shift)


class ScatteredPages:
    """While it lasts, memory that is touched for the first time lies in chunks drawn from all over an area.

    Half of the area is given back, in an order drawn anew, and is what the kernel hands out next: 32 MiB,
    from between the chunks that are held. Nothing is done but on Linux: elsewhere the kernel may keep it.
    """

    def __init__(self) -> None:
        self._area: mmap.mmap | None = None
        if sys.platform != "linux":
            return
        self._area = area = mmap.mmap(-1, _AREA, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for page in range(0, _AREA, mmap.PAGESIZE):
            area[page] = 1
        chunks = range(0, _AREA, _CHUNK)
        for chunk in random.Random(secrets.randbits(64)).sample(chunks, len(chunks) // 2):
            area.madvise(mmap.MADV_DONTNEED, chunk, _CHUNK)

    def release(self) -> None:
        """Give back the rest; harmless if that has been done."""
        if self._area is not None:
            self._area.close()
            self._area = None
