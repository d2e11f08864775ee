"""Turns at what only one may do at a time, with a short queue: whoever waits holds a thread that others want too."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """One at a time, and a few who wait for it.

    Args:
        most_waiting: How many may wait.
    """

    def __init__(self, most_waiting: int) -> None:
        self._one = threading.Lock()
        self._places = threading.BoundedSemaphore(1 + most_waiting)

    @contextmanager
    def take(self, seconds: float) -> Iterator[bool]:
        """Wait for a turn, which lasts as long as the block.

        Args:
            seconds: How long to wait at most.

        Yields:
            Whether it came; False at once where as many wait already as may.
        """
        if not self._places.acquire(blocking=False):
            yield False
            return
        try:
            came = self._one.acquire(timeout=seconds)
            try:
                yield came
            finally:
                if came:
                    self._one.release()
        finally:
            self._places.release()
