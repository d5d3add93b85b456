"""Memory that a process keeps when it frees it, so that no execution pays for mapping it once more."""

from __future__ import annotations

import ctypes
from functools import cache

# mallopt's names for them, from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


@cache
def keep_freed_memory() -> bool:
    """Have glibc's malloc keep what this process frees, from now on, and give it out again.

    As it comes, glibc maps every piece above 32 MB anew and unmaps it when it is freed
    (https://man7.org/linux/man-pages/man3/mallopt.3.html, M_MMAP_THRESHOLD): activations of a large network, and the
    weights that a convolution puts into another order in each call. The system then has to provide each page again
    when it is first touched, which on a virtual machine was seen to double the time of Stable Diffusion's
    1280-channel ResNets, in some networks and not in others. PyTorch's guide to performance on CPUs advises an
    allocator that keeps memory for the same reason
    (https://docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html#switch-memory-allocator).

    `torch-cpu` calls this before it measures. A program that is to be as fast as the table says calls it, too, or
    runs with `GLIBC_TUNABLES=glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=18446744073709551615`. An allocator
    put in by `LD_PRELOAD` has settings of its own, which this does not reach.

    Returns:
        Whether that is so now; False where the C library is another one, as on macOS and Windows.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    # -1 is the largest threshold, for it is read as a number without a sign: nothing at the heap's end goes back.
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1))
