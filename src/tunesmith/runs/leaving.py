"""What has to be done before a process ends of which a thread can never be brought back.

with before_leaving(bring_out):     # where a run's folder is kept equal to a store
    ...
last_acts(code)                     # in another thread, before os._exit(code), which unwinds nothing
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# A store that does not answer must not keep a process that waits for nothing.
_MOST_SECONDS = 30.0
_acts: list[Callable[[int], None]] = []


@contextmanager
def before_leaving(act: Callable[[int], None]) -> Iterator[None]:
    """Let ``act`` be done with the exit code where the process has to end within the block, without unwinding it."""
    _acts.append(act)
    try:
        yield
    finally:
        _acts.remove(act)


def last_acts(code: int, most_seconds: float = _MOST_SECONDS) -> None:
    """Do what was asked for, the newest first; whoever calls ends the process behind it.

    What fails is printed and keeps nobody; what takes longer than ``most_seconds`` in all is left.
    """

    def act_on_all() -> None:
        for act in reversed(_acts):
            act(code)

    thread = threading.Thread(target=act_on_all, name="leaving", daemon=True)
    thread.start()
    thread.join(most_seconds)
