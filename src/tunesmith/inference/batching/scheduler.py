"""The thread that owns the models: it takes requests by turns of their tenants and answers all that fit together."""

from __future__ import annotations

import threading
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tunesmith.inference.batching.batch import Batch, Taken
from tunesmith.inference.batching.fair_queue import FairQueue
from tunesmith.inference.batching.turns import Turns
from tunesmith.inference.metrics import Metrics
from tunesmith.inference.requests import Answer, BusyError, Request
from tunesmith.inference.shelf import Shelf

# How long the thread sleeps at most while a model is being loaded and nothing else is to do.
_LOADING_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Opened:
    """A served name once it is in memory: a model's batch, and the adapter of its rows in the pool's form."""

    batch: Batch
    adapter: Any = None


@dataclass(frozen=True)
class _Waiting:
    request: Request
    opening: Future[Opened]


class BatchingEngine:
    """Continuous batching over the models and adapters of a shelf; see :class:`tunesmith.inference.requests.Engine`.

    Args:
        shelf: Opens the models by name.
        metrics: Counts what happens.
        rows_at_once: The most answers that are written at once.
        most_waiting: The most requests that wait; more are turned away, unless they are of a tenant that has less than
            its share of them.
        loads: What the shelf loads by, where this engine's thread is to load.
    """

    def __init__(
        self,
        shelf: Shelf[Opened],
        metrics: Metrics,
        *,
        rows_at_once: int = 32,
        most_waiting: int = 1024,
        loads: Turns | None = None,
    ) -> None:
        self._shelf = shelf
        self._metrics = metrics
        metrics.watch(shelf.names)
        self._rows_at_once = rows_at_once
        self._most_waiting = most_waiting
        self._loads = Turns() if loads is None else loads
        self._queue: FairQueue[_Waiting] = FairQueue()
        self._going: dict[int, tuple[Taken, Batch]] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="generation", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def submit(self, request: Request) -> None:
        """As in :class:`tunesmith.inference.requests.Engine`."""
        with self._changed:
            full = len(self._queue) >= self._most_waiting
            if self._closed or (full and self._queue.share_of(request.tenant) >= self._most_waiting):
                raise BusyError
            self._queue.put(request.tenant, _Waiting(request, self._shelf.take(request.model)))
            self._metrics.waiting.inc()
            self._changed.notify()

    def close(self) -> None:
        """Answer what waits, then end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        self._shelf.close()

    def _work(self) -> None:
        while self._wait():
            self._loads.work()
            self._drop_cancelled()
            self._admit()
            for batch in self._batches():
                self._advance(batch)

    def _wait(self) -> bool:
        """Sleep until there is something to do; False once all is done and no more comes."""
        with self._changed:
            while not self._going:
                if not len(self._queue):
                    if self._closed:
                        return False
                    self._changed.wait()
                elif self._loads.waits or any(waiting.opening.done() for _, waiting in self._queue.in_turn()):
                    break
                else:
                    self._changed.wait(_LOADING_POLL_SECONDS)
                    break
        return True

    def _batches(self) -> list[Batch]:
        return list({id(batch): batch for _, batch in self._going.values()}.values())

    def _drop_cancelled(self) -> None:
        with self._changed:
            gone = self._queue.drop_if(lambda waiting: waiting.request.cancelled.is_set())
        self._metrics.waiting.dec(len(gone))
        for waiting in gone:
            self._shelf.give_back(waiting.request.model)
            self._metrics.ended(waiting.request, "cancelled")
            waiting.request.done.cancel()
        for taken, batch in list(self._going.values()):
            if taken.request.cancelled.is_set():
                batch.drop(taken)
                self._end(taken, "cancelled")
                taken.request.done.cancel()

    def _admit(self) -> None:
        """Take those whose turn it is as long as there is room; a model that still loads holds nobody else up."""
        while (waiting := self._next()) is not None:
            request = waiting.request
            try:
                opened = waiting.opening.result()
                taken = opened.batch.admit(request, opened.adapter)
            except Exception as error:
                self._shelf.give_back(request.model)
                self._metrics.ended(request, "failed")
                _settle(request.done, error)
                continue
            self._going[id(taken)] = (taken, opened.batch)
            self._charge(request, read=len(request.prompt))
            request.begun.set()
            self._metrics.began(request)
            self._metrics.running.inc()

    def _next(self) -> _Waiting | None:
        rows = sum(len(taken.parts) for taken, _ in self._going.values())
        full: list[Batch] = []
        with self._changed:
            for tenant, waiting in self._queue.in_turn():
                if not waiting.opening.done():
                    continue
                if self._going and rows + waiting.request.answers > self._rows_at_once:
                    return None
                batch = None if waiting.opening.exception() is not None else waiting.opening.result().batch
                if batch in full:
                    # Smaller ones that would still fit must not take the room that an earlier one waits for.
                    continue
                if batch is None or batch.has_room(len(waiting.request.prompt), waiting.request.answers):
                    self._queue.take(tenant)
                    self._metrics.waiting.dec()
                    return waiting
                full.append(batch)
        return None

    def _advance(self, batch: Batch) -> None:
        before = {key: _written(taken) for key, (taken, whose) in self._going.items() if whose is batch}
        try:
            done = batch.advance()
        except Exception as error:
            batch.clear()
            for taken, whose in list(self._going.values()):
                if whose is batch:
                    # Some may have been done before the others failed.
                    taken.failure = None if taken.is_done else taken.failure or error
                    self._finish(taken)
            return
        for key, count in before.items():
            taken, _ = self._going[key]
            written = _written(taken) - count
            self._charge(taken.request, written=written)
            self._metrics.wrote(taken.request, written, first=count == 0 and written > 0)
        for taken in done:
            self._finish(taken)

    def _finish(self, taken: Taken) -> None:
        if taken.failure is not None:
            self._end(taken, "failed")
            _settle(taken.request.done, taken.failure)
        else:
            self._end(taken, "answered")
            _settle(taken.request.done, [part.answer() for part in taken.parts])

    def _charge(self, request: Request, *, read: int = 0, written: int = 0) -> None:
        with self._changed:
            self._queue.charge(request.tenant, read=read, written=written)

    def _end(self, taken: Taken, how: str) -> None:
        del self._going[id(taken)]
        self._metrics.running.dec()
        self._shelf.give_back(taken.request.model)
        self._metrics.ended(taken.request, how)


def _settle(done: Future[list[Answer]], outcome: list[Answer] | Exception) -> None:
    # Whoever waited may have gone in this very moment; the thread must outlive that.
    with suppress(InvalidStateError):
        if isinstance(outcome, Exception):
            done.set_exception(outcome)
        else:
            done.set_result(outcome)


def _written(taken: Any) -> int:
    return sum(len(part.row.tokens) for part in taken.parts)
