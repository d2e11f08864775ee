"""Work that waits until the thread that owns the models takes it up.

Every thread that computes gets a team of OpenMP threads of its own, and once there are more of these than cores, they
sleep between any two products instead of waiting awake: an adapter that was loaded beside the engine's thread halved
its speed for good. So models are loaded by the engine's thread itself, between two tokens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

Result = TypeVar("Result")


class Turns(Executor):
    """An executor whose work is done by whoever calls :meth:`work`."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()

    @property
    def waits(self) -> bool:
        """Whether there is work to do."""
        return bool(self._waiting)

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        """Let work wait."""
        future: Future[Result] = Future()
        self._waiting.append((future, lambda: fn(*args, **kwargs)))
        return future

    def work(self) -> None:
        """Do one piece of the work that waits."""
        if not self._waiting:
            return
        future, call = self._waiting.popleft()
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002  nothing runs by itself
        """Forget what waits."""
        while self._waiting:
            self._waiting.popleft()[0].cancel()
