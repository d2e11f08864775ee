"""Which pack goes through the model just now, for parts of the model that need to know its rows.

Not a context variable: recomputed layers run in threads of autograd's own, and a worker runs one pack at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tunesmith.data.types import Pack

_running: list[Pack] = []


@contextmanager
def running(pack: Pack) -> Iterator[None]:
    """Say which pack goes through the model in the block."""
    _running.append(pack)
    try:
        yield
    finally:
        _running.pop()


def running_pack() -> Pack | None:
    """The pack of the innermost block, None outside of all."""
    return _running[-1] if _running else None
