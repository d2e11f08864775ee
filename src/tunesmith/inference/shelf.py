"""What is loaded on first use and leaves when others need the room: adapters, models with heads."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

Loaded = TypeVar("Loaded")


@dataclass
class _Place(Generic[Loaded]):
    loading: Future[Loaded]
    users: int = 0


class Shelf(Generic[Loaded]):
    """Things by name, at most so many at once; the least recently used that nobody uses leaves.

    One thread loads, and two never load the same.

    Args:
        most: How many stay loaded; those in use stay whatever their number.
        load: Makes the thing of a name.
        unload: Lets go of one.
        loader: Runs ``load``, one at a time; None for a thread of the shelf's own.
    """

    def __init__(
        self,
        most: int,
        load: Callable[[str], Loaded],
        unload: Callable[[Loaded], None],
        loader: Executor | None = None,
    ) -> None:
        self._most = most
        self._load = load
        self._unload = unload
        self._places: OrderedDict[str, _Place[Loaded]] = OrderedDict()
        self._lock = threading.Lock()
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="loading") if loader is None else loader

    def take(self, name: str) -> Future[Loaded]:
        """Use a thing, and load it if need be; every call needs a :meth:`give_back`."""
        with self._lock:
            place = self._places.get(name)
            if place is None or _has_failed(place.loading):
                # What failed is tried again: the file may be there now. Those who met the failure still give it back.
                users = 0 if place is None else place.users
                place = _Place(self._loader.submit(self._load, name), users)
                self._places[name] = place
            place.users += 1
            self._places.move_to_end(name)
        return place.loading

    def give_back(self, name: str) -> None:
        """Use it no longer; whatever has to leave leaves."""
        with self._lock:
            place = self._places.get(name)
            if place is not None:
                place.users -= 1
            # Under the lock, so that whoever wants it back loads it after it has left and not before.
            for loading in self._leaving():
                with suppress(Exception):
                    self._unload(loading.result())

    def names(self) -> list[str]:
        """What is loaded now, the least recently used first."""
        with self._lock:
            places = self._places.items()
            return [name for name, place in places if place.loading.done() and not _has_failed(place.loading)]

    def close(self) -> None:
        """Load nothing more."""
        self._loader.shutdown(wait=False, cancel_futures=True)

    def _leaving(self) -> list[Future[Loaded]]:
        idle = [name for name, place in self._places.items() if place.users <= 0 and place.loading.done()]
        surplus = max(0, len(self._places) - self._most)
        return [self._places.pop(name).loading for name in idle[:surplus]]


def _has_failed(loading: Future[Loaded]) -> bool:
    return loading.done() and (loading.cancelled() or loading.exception() is not None)
