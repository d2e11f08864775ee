"""Names of things, in the order in which they were made.

A name is a prefix, the moment in milliseconds and chance, in an alphabet whose order is that of its numbers. So a list
by name is a list by time, and the last name of a page says where the next one starts.
"""

from __future__ import annotations

import secrets
import threading
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_MOMENT_LETTERS = 10
_CHANCE_LETTERS = 14
_lock = threading.Lock()
_last_moment = 0


def new_id(prefix: str) -> str:
    """A new name, such as ``file-01jd...``; later than every other of this process."""
    return f"{prefix}{_letters(_moment(), _MOMENT_LETTERS)}{_chance(_CHANCE_LETTERS)}"


def short_id() -> str:
    """Eight letters of chance, as OpenAI ends the names of tuned models."""
    return _chance(8)


def _moment() -> int:
    """Milliseconds, and one more where two names are made within one."""
    global _last_moment  # noqa: PLW0603
    with _lock:
        _last_moment = max(_last_moment + 1, time.time_ns() // 1_000_000)
        return _last_moment


def _chance(count: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(count))


def _letters(number: int, count: int) -> str:
    letters = []
    for _ in range(count):
        number, rest = divmod(number, len(_ALPHABET))
        letters.append(_ALPHABET[rest])
    return "".join(reversed(letters))
