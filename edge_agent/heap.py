"""Keeps the memory of a process small: one heap for all threads, which gives back what was freed."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""Parameters of mallopt(3), from malloc.h."""
LARGE_BYTES = 256 * 1024
"""What is at least so large (frames, models) has its own pages, and gives them back when it is freed."""


def keep_small() -> None:
    """To be called before the first thread starts; does nothing where there is no mallopt.

    Left alone, glibc gives each thread a heap, and after the first frame that is freed takes all further ones from these
    heaps, which are then never given back.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for parameter, value in ((M_ARENA_MAX, 1), (M_MMAP_THRESHOLD, LARGE_BYTES), (M_TRIM_THRESHOLD, LARGE_BYTES)):
            libc.mallopt(parameter, value)
