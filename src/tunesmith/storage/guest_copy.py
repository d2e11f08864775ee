"""The side of a machine that takes part in a run in a store without owning it.

The worker that owns the run invites others by ``meeting.json`` once its training begins. A thread of this module brings
that file into a folder here, behind everything that was in the store by then, so that whoever finds the invitation
finds what ranks need: recipe, inputs, resolved values, checkpoints. Nothing is written to the store.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tunesmith.errors import TunesmithError
from tunesmith.runs.atomic import telling_output_errors
from tunesmith.runs.control import write_wish
from tunesmith.runs.layout import RunFolder
from tunesmith.storage.address import open_store
from tunesmith.storage.mirror import pull_files
from tunesmith.storage.run_store import INPUTS, JOB, MEETING, RECIPE, RunStore, safe_path

_TICK_SECONDS = 1.0
_MANIFEST = "manifest.json"
_FOLDERS = ("checkpoints/", "base/")


@contextmanager
def guest_copy(url: str) -> Iterator[RunFolder]:
    """A folder on this machine that shows a run while the block lasts.

    Raises:
        NetworkError: The store does not answer.
        FileNotFoundError: There is no run.
        OutputError: The folder on this machine cannot be written.
    """
    run = RunStore(open_store(url))
    name = url.rstrip("/").rpartition("/")[2]
    with tempfile.TemporaryDirectory(prefix="tunesmith-guest-", ignore_cleanup_errors=True) as holder:
        guest = _Guest(run, RunFolder(Path(holder).resolve() / name))
        guest.fetch()
        guest.start()
        try:
            yield guest.folder
        finally:
            guest.stop()


class _Guest:
    def __init__(self, run: RunStore, folder: RunFolder) -> None:
        self.folder = folder
        self._run = run
        self._invited: tuple[int, int] | None = None
        self._wish = "continue"
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look_again, name="guest copy", daemon=True)

    def fetch(self) -> None:
        """Bring what does not change, and what an earlier attempt has left."""
        for path in (JOB, RECIPE, *(found.path for found in self._run.store.walk(INPUTS))):
            place = self.folder.path.joinpath(*safe_path(path).parts)
            with telling_output_errors(place):
                place.parent.mkdir(parents=True, exist_ok=True)
            self._run.store.get(path, place)
        pull_files(self._run, self.folder, _is_needed)

    def start(self) -> None:
        """Begin to look for an invitation."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._done.set()
        self._thread.join()

    def _look_again(self) -> None:
        while not self._done.wait(_TICK_SECONDS):
            try:
                self._look()
            except TunesmithError:
                # The next turn tries again.
                continue

    def _look(self) -> None:
        wish = self._run.wish()
        if wish != self._wish:
            write_wish(self.folder.control, wish)
            self._wish = wish
        listed = self._run.files()
        invited = listed.get(MEETING)
        if invited != self._invited:
            (self.folder.path / MEETING).unlink(missing_ok=True)
            if invited is not None:
                pull_files(self._run, self.folder, _is_needed)
                pull_files(self._run, self.folder, lambda path: path == MEETING)
            self._invited = invited
        if _MANIFEST in listed:
            pull_files(self._run, self.folder, lambda path: path == _MANIFEST)


def _is_needed(path: str) -> bool:
    return path not in (MEETING, _MANIFEST) and ("/" not in path or path.startswith(_FOLDERS))
