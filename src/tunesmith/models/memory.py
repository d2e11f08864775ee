"""Failed allocations in words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tunesmith.errors import ResourceError


@contextmanager
def telling_memory_errors(message: str, *, hint: str, place: str | None = None, value: object = None) -> Iterator[None]:
    """Turn a failed allocation of the block into an error of ours; CPU and accelerators fail in different ways.

    Raises:
        ResourceError: ``resource.memory``, with what was given.
    """
    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        raise ResourceError(message, code="resource.memory", place=place, value=value, hint=hint) from error
