"""Memory that is free goes back to the system: once, where much was just freed or dropped, or always, by glibc.

Processes are started so that they keep what they free, which makes steps shorter (tunesmith.executors.environment).
"""

from __future__ import annotations

import ctypes
import gc
from typing import Any

import torch

# Of glibc's mallopt(3).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3


def give_back_freed() -> None:
    """Hand back what is free now.

    Behind loading and measuring there are gaps of sizes that training does not ask for; it would grow beside them.
    """
    library = _library()
    if library is not None:
        library.malloc_trim(0)


def give_back_dropped() -> None:
    """Hand back what nobody refers to any more, on the GPU too, though objects that refer to each other hold it."""
    gc.collect()
    # Does nothing where no GPU was used.
    torch.cuda.empty_cache()
    give_back_freed()


def give_back_always() -> None:
    """From now on hand blocks of more than a megabyte back as soon as they are free.

    For strategies that are chosen for the memory that they save: weights that are gathered and dropped again, in blocks
    of many sizes, would leave gaps that add up to more than what cutting them saved. Measured with the starter model on
    two processes, all weights training: 2.6 GB kept against 1.2 GB.
    """
    library = _library()
    if library is not None:
        for option, size in ((_MMAP_THRESHOLD, 2**20), (_TRIM_THRESHOLD, 2**22), (_TOP_PAD, 2**17)):
            library.mallopt(option, size)
        library.malloc_trim(0)


def _library() -> Any | None:
    """The C library, where it has glibc's functions."""
    try:
        library = ctypes.CDLL(None)
        return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
    except OSError:
        return None
