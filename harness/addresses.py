"""Where the memory of a process lies: drawn anew for each, so that no candidate keeps a good or bad place.

Processes forked from one server have one layout of addresses, and who is started in turn is given the pages
of memory that the one before gave back. Both decide what is in the way of what in the caches. What a place
costs or gains a model would be in the ratio of every process, and in no interval (Mytkowicz et al., 2009;
docs/measuring.md).
"""

import mmap
import random
import secrets

_HUGE_PAGE = 1 << 21
_SCATTERED = 1 << 26
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
    """While it lasts, memory that is touched for the first time lies in pages drawn from all over an area.

    Half of the area's pages are given back, in an order drawn anew. The kernel hands out what lies alone
    before it breaks up what lies together, so the next 32 MiB come from between the pages that are held.
    Nothing is done where pages cannot be given back one by one.
    """

    def __init__(self) -> None:
        self._area: mmap.mmap | None = None
        if not hasattr(mmap, "MADV_DONTNEED"):
            return
        self._area = area = mmap.mmap(-1, _SCATTERED, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        pages = range(0, _SCATTERED, mmap.PAGESIZE)
        for page in pages:
            area[page] = 1
        for page in random.Random(secrets.randbits(64)).sample(pages, len(pages) // 2):
            area.madvise(mmap.MADV_DONTNEED, page, mmap.PAGESIZE)

    def release(self) -> None:
        """Give back the rest; harmless if that has been done."""
        if self._area is not None:
            self._area.close()
            self._area = None
