"""Between the web server's loop and the engine's thread: hand a request over, wait for its answers or its pieces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from fastapi import Request as HttpRequest

from tunesmith.inference.metrics import Metrics
from tunesmith.inference.requests import Answer, Engine, Piece, Request
from tunesmith.wire.serving import REQUEST_HEADER

_DISCONNECT_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Stopped:
    """Work that ended before its answers were whole: tokens that were read and written until then."""

    read: int
    written: int


class Desk:
    """Takes requests to the engine and counts them; those that are called by a name can be stopped by it."""

    def __init__(self, engine: Engine, metrics: Metrics) -> None:
        self._engine = engine
        self._metrics = metrics
        self._named: dict[tuple[str, str], Sequence[Request]] = {}

    def submit(self, request: Request) -> None:
        """Hand a request over.

        Raises:
            BusyError: Too many wait.
        """
        self._metrics.arrived(request)
        try:
            self._engine.submit(request)
        except BaseException:
            self._metrics.ended(request, "refused")
            raise

    async def answers(self, requests: Sequence[Request], http: HttpRequest) -> list[list[Answer]] | Stopped:
        """The answers of all; or the work is stopped, when the client went away or wished it.

        Raises:
            Exception: Whatever the first that failed failed with; the others are stopped.
        """
        counts = [_Count() for _ in requests]
        counted = [replace(one, on_piece=count.note) for one, count in zip(requests, counts, strict=True)]
        key = (tenant_of(http), http.headers.get(REQUEST_HEADER, ""))
        if key[1]:
            self._named[key] = counted
        try:
            for request in counted:
                self.submit(request)
            waiting = asyncio.gather(*(asyncio.wrap_future(request.done) for request in counted))
            while not waiting.done():
                await asyncio.wait({waiting}, timeout=_DISCONNECT_POLL_SECONDS)
                if not waiting.done() and await http.is_disconnected():
                    waiting.cancel()
            return list(waiting.result())
        except asyncio.CancelledError:
            if not waiting.done():
                raise
            read = sum(len(request.prompt) for request in counted if request.begun.is_set())
            return Stopped(read, sum(count.tokens for count in counts))
        finally:
            self._named.pop(key, None)
            cancel(counted)

    def stop(self, tenant: str, name: str) -> bool:
        """Stop what somebody asked under a name of theirs; whether there is such a request."""
        found = self._named.get((tenant, name))
        cancel(found or ())
        return found is not None


def tenant_of(http: HttpRequest) -> str:
    """Who asks, by the key that let them in."""
    return str(http.scope.get("tunesmith.tenant", ""))


class _Count:
    """Tokens of a request's answers; told from the engine's thread."""

    def __init__(self) -> None:
        self.tokens = 0

    def note(self, piece: Piece) -> None:
        # The last piece of an answer has no token.
        self.tokens += piece.finish_reason is None


def start_stream(desk: Desk, requests: Sequence[Request]) -> AsyncIterator[tuple[int, Piece]]:
    """Hand requests over; their pieces as they come, each with the number of its request.

    Closing the iterator stops the work; while it is read, it raises whatever a request failed with.

    Raises:
        BusyError: Too many wait.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[tuple[int, Piece | BaseException | None]] = asyncio.Queue()

    def hand_over(number: int, piece: Piece | BaseException | None) -> None:
        # The loop is closed where the server has ended without waiting for this answer.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(queue.put_nowait, (number, piece))

    listening = [replace(request, on_piece=partial(hand_over, number)) for number, request in enumerate(requests)]
    try:
        for number, request in enumerate(listening):
            request.done.add_done_callback(partial(_hand_over_end, hand_over, number))
            desk.submit(request)
    except BaseException:
        cancel(listening)
        raise
    return _pieces(queue, listening)


def cancel(requests: Sequence[Request]) -> None:
    """Nobody wants the answers any more; for those that are answered already this means nothing."""
    for request in requests:
        request.cancelled.set()


async def _pieces(
    queue: asyncio.Queue[tuple[int, Piece | BaseException | None]], requests: Sequence[Request]
) -> AsyncIterator[tuple[int, Piece]]:
    left = len(requests)
    try:
        while left:
            number, piece = await queue.get()
            if isinstance(piece, BaseException):
                raise piece
            if piece is None:
                left -= 1
            else:
                yield number, piece
    finally:
        cancel(requests)


def _hand_over_end(
    hand_over: Callable[[int, BaseException | None], None], number: int, done: Future[list[Answer]]
) -> None:
    hand_over(number, None if done.cancelled() else done.exception())
