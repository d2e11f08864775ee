"""Work that is done again and again beside the requests, by the dispatcher's process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tunesmith.service.context import Context


@dataclass(frozen=True)
class Chore:
    """Something to do every so often.

    ``do`` must bear to be ended at any point and to run in several processes at once; it returns soon.
    """

    name: str
    every_seconds: float
    do: Callable[[Context], None]
