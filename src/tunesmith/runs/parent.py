"""End with the process that asked for the work: what nobody will read need not be computed.

A command that is ended by SIGTERM or SIGKILL, or whose terminal is gone, says nothing to the processes that it
started. They look for themselves.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import psutil

_POLL_SECONDS = 0.5


def watch_parent(parent_pid: int, when_gone: Callable[[], None]) -> None:
    """Call ``when_gone`` in a thread of its own, once, after the process ``parent_pid`` has ended."""
    threading.Thread(target=_watch, args=(parent_pid, when_gone), name="parent", daemon=True).start()


def _watch(parent_pid: int, when_gone: Callable[[], None]) -> None:
    is_child = os.getppid() == parent_pid
    # A process id can be taken by another process later; a changed parent cannot be mistaken.
    while os.getppid() == parent_pid if is_child else psutil.pid_exists(parent_pid):
        time.sleep(_POLL_SECONDS)
    when_gone()
