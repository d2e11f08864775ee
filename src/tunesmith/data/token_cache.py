"""Token stores that are kept for the next run on the same rows, the least recently used of them only up to a size.

Each store has a file USED: its time says when the store was last taken, and whoever works with the store holds a
shared lock on it, so that no other process removes the store meanwhile.
"""

from __future__ import annotations

import math
import os
import shutil
import time
import uuid
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from tunesmith.data.store import TokenStore, open_token_store
from tunesmith.errors import DataError, OutputError, UsageError
from tunesmith.runs.atomic import SCRATCH_MARK

SIZE_VARIABLE = "TUNESMITH_TOKEN_CACHE_GB"
DEFAULT_GIGABYTES = 5.0
USED = "used"
# What a killed process left behind has not been written to for so long.
_LEFTOVER_SECONDS = 24 * 3600.0


def cached_token_store(cache: Path, key: str, write: Callable[[Path], TokenStore]) -> TokenStore:
    """The store of that key, or a new one; a damaged one is written again.

    The store stays in the cache at least as long as it is held. After a new one is written, the cache is pruned.

    Args:
        cache: The folder of all stores.
        key: From :func:`tunesmith.data.cache_key.cache_key`.
        write: Writes the store into the folder that it is given.

    Raises:
        OutputError: The folder cannot be written.
        UsageError: As :func:`most_bytes`.
    """
    limit = most_bytes()
    folder = cache / key
    if folder.exists():
        try:
            return _held(folder)
        except DataError:
            shutil.rmtree(folder, ignore_errors=True)
    try:
        write(folder)
    except OutputError as error:
        # Another process with the same rows and tokenizer may have been first.
        if error.code != "output.exists" and not folder.exists():
            raise
    store = _held(folder)
    prune(cache, limit)
    return store


def most_bytes() -> int:
    """How large all stores together may be: TUNESMITH_TOKEN_CACHE_GB gigabytes, 5 unless set.

    Raises:
        UsageError: ``usage.variable``: the variable is no number of gigabytes.
    """
    text = os.environ.get(SIZE_VARIABLE)
    try:
        gigabytes = DEFAULT_GIGABYTES if text is None else float(text)
    except ValueError:
        gigabytes = math.nan
    if not 0 <= gigabytes < math.inf:
        raise UsageError(
            "the size of the token cache is a number of gigabytes",
            code="usage.variable",
            place=SIZE_VARIABLE,
            value=text,
            hint="for example 5 or 0.5",
        )
    return int(gigabytes * 1e9)


def prune(cache: Path, limit: int) -> list[str]:
    """Remove the least recently used stores until all of them together have at most ``limit`` bytes.

    Stores in use stay, whatever the limit; what killed processes left behind half-written goes in any case.

    Returns:
        The keys of the stores that were removed.
    """
    for leftover in cache.glob(f".*{SCRATCH_MARK}*"):
        if _last_written(leftover) < time.time() - _LEFTOVER_SECONDS:
            shutil.rmtree(leftover, ignore_errors=True)
    stores = [path for path in cache.iterdir() if path.is_dir() and not path.name.startswith(".")]
    sizes = {path: _size(path) for path in stores}
    total = sum(sizes.values())
    removed: list[str] = []
    for path in sorted(stores, key=_last_used):
        if total <= limit:
            break
        if _remove_unless_used(path):
            removed.append(path.name)
            total -= sizes[path]
    return removed


def _held(folder: Path) -> TokenStore:
    """Open a store and keep it from being pruned while the object lives."""
    try:
        file = (folder / USED).open("ab")
        os.utime(folder / USED)
    except OSError:
        # A cache that may only be read is not pruned by us either.
        return open_token_store(folder)
    try:
        _lock(file, alone=False)
        store = open_token_store(folder)
    except BaseException:
        file.close()
        raise
    weakref.finalize(store, file.close)
    return store


def _remove_unless_used(folder: Path) -> bool:
    try:
        with (folder / USED).open("ab") as file:
            if not _lock(file, alone=True):
                return False
            # Renamed first: what cannot be removed whole is then not taken for a store, and where the system keeps
            # open files in their place (Windows), renaming fails for a store in use.
            aside = folder.with_name(f".{folder.name}{SCRATCH_MARK}{uuid.uuid4().hex[:8]}")
            if os.name == "posix":
                folder.rename(aside)
        if os.name != "posix":
            folder.rename(aside)
    except OSError:
        return False
    shutil.rmtree(aside, ignore_errors=True)
    return True


def _lock(file: BinaryIO, *, alone: bool) -> bool:
    """Lock a file for oneself or together with others; False where others hold it. Elsewhere than on POSIX, True."""
    if os.name != "posix":
        return True
    import fcntl

    try:
        fcntl.flock(file.fileno(), (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _last_used(folder: Path) -> float:
    try:
        return (folder / USED).stat().st_mtime
    except OSError:
        # Stores of earlier versions have no such file.
        return _last_written(folder)


def _last_written(folder: Path) -> float:
    return max((_stat(path)[1] for path in (folder, *folder.glob("*"))), default=0.0)


def _size(folder: Path) -> int:
    return sum(_stat(path)[0] for path in folder.glob("*"))


def _stat(path: Path) -> tuple[int, float]:
    """Size and time; nothing where another process has just removed it."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0.0
    return found.st_size, found.st_mtime
