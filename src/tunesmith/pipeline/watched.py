"""Reading that ends when the user wants it to: a wish to pause is not left waiting for all rows of a large file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tunesmith.errors import Stopped

Read = TypeVar("Read")
ShouldStop = Callable[[], bool]

# Asking reads a small file.
_ROWS_BETWEEN = 64


def go_on() -> bool:
    """The answer of one who never wants to stop."""
    return False


def stop_if_asked(should_stop: ShouldStop) -> None:
    """Raise where the user wants the run to stop; all that is lost is made again when it goes on.

    Raises:
        Stopped: ``prepare.stopped``.
    """
    if should_stop():
        raise Stopped("the run was stopped before its training began", code="prepare.stopped")


def watched(rows: Iterable[Read], should_stop: ShouldStop) -> Iterator[Read]:
    """The same rows, with the question asked now and then.

    Raises:
        Stopped: As :func:`stop_if_asked`.
    """
    for number, row in enumerate(rows):
        if number % _ROWS_BETWEEN == 0:
            stop_if_asked(should_stop)
        yield row
