"""Tell how far a download is by looking at what has arrived on disk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# What is done ("download", "convert"), how much, of how much (None: unknown), and in which unit ("bytes", "tensors").
OnProgress = Callable[[str, int, int | None, str], None]

_INTERVAL_SECONDS = 0.5


def bytes_in(folders: Sequence[Path]) -> int:
    """Bytes of all files below the folders; files that vanish meanwhile count nothing."""
    total = 0
    for folder in folders:
        for path in folder.rglob("*"):
            try:
                total += path.stat().st_size if path.is_file() and not path.is_symlink() else 0
            except OSError:
                continue
    return total


@contextmanager
def watching(folders: Sequence[Path], total_bytes: int | None, on_progress: OnProgress) -> Iterator[None]:
    """Report the bytes below the folders twice a second, from a thread of its own, while the block lasts."""
    done = threading.Event()

    def report() -> None:
        while not done.wait(_INTERVAL_SECONDS):
            arrived = bytes_in(folders)
            on_progress("download", arrived if total_bytes is None else min(arrived, total_bytes), total_bytes, "bytes")

    thread = threading.Thread(target=report, name="download progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
