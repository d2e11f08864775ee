"""The worker's side of a run in a store: a folder on this machine that is kept equal to it.

The worker reads and writes its folder as any worker does. A thread of this module brings wishes in, and events, logs,
checkpoints and results out, and says every few seconds that the worker lives.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tunesmith.errors import NetworkError, OutputError, RunError, TunesmithError
from tunesmith.runs.atomic import SCRATCH_MARK, telling_output_errors
from tunesmith.runs.control import write_wish
from tunesmith.runs.layout import RunFolder
from tunesmith.runs.leaving import before_leaving
from tunesmith.storage.address import open_store
from tunesmith.storage.run_store import (
    BEAT_SECONDS,
    FILES,
    INPUTS,
    JOB,
    MEETING,
    RECIPE,
    RunStore,
    safe_path,
    worker_name,
)

_TICK_SECONDS = 2.0
_FILES_SECONDS = 10.0
_LAST_TRIES = 5
# Files of a process that ends at once; its checkpoints before that are in the store already.
_LEAVING_SECONDS = 20.0
_MANIFEST = "manifest.json"
# What lies in the store under another name, or means something on this machine alone.
_OWN = frozenset({RECIPE, "events.jsonl", "control.json", "lease.json", "launch.json", "job.json"})


def is_address(place: str) -> bool:
    """Whether a run lies in a store, which may be a folder that several machines mount (``file://``)."""
    return "://" in place


@contextmanager
def working_copy(url: str) -> Iterator[WorkingCopy]:
    """Take the next attempt at a run, bring it here, and keep both equal while the block lasts.

    The block says how it ended in ``code``. What it leaves is in the store when the block is over.

    Raises:
        RunError: Another worker owns the run, or has taken it over meanwhile.
        NetworkError: The store does not answer.
        OutputError: The folder on this machine cannot be written.
    """
    run = RunStore(open_store(url))
    number = run.take_attempt(worker_name(os.getpid()))
    name = url.rstrip("/").rpartition("/")[2]
    with tempfile.TemporaryDirectory(prefix="tunesmith-run-", ignore_cleanup_errors=True) as holder:
        copy = WorkingCopy(run, number, RunFolder(Path(holder).resolve() / name))
        try:
            copy.fetch()
        except BaseException:
            run.end(number, 1)
            raise
        copy.start()
        try:
            with before_leaving(copy.leave):
                yield copy
        finally:
            copy.stop()
            copy.push_last()
            run.end(number, copy.code)


class WorkingCopy:
    """A run's folder on this machine, for one attempt."""

    def __init__(self, run: RunStore, number: int, folder: RunFolder) -> None:
        self.folder = folder
        self.code = 1
        self._run = run
        self._number = number
        self._sent: dict[str, tuple[int, int]] = {}
        self._events_sent = 0
        self._wish = "continue"
        self._lost = False
        self._done = threading.Event()
        # A process that ends at once brings out its last words while another thread may be at it.
        self._pushing = threading.Lock()
        self._thread = threading.Thread(target=self._keep_equal, name="working copy", daemon=True)

    def fetch(self) -> None:
        """Bring recipe, inputs, events and files here."""
        target, store = self.folder.path, self._run.store
        with telling_output_errors(target):
            target.mkdir(parents=True)
        for found in store.walk(INPUTS):
            self._get(found.path, found.path)
        for name in (JOB, RECIPE):
            self._get(name, name)
        with telling_output_errors(self.folder.events), self.folder.events.open("wb") as events:
            for piece in self._run.event_pieces():
                events.write(store.read(piece))
        self._events_sent = self.folder.events.stat().st_size
        for path, (_, changed_ns) in self._run.files().items():
            self._get(f"{FILES}/{path}", path)
            os.utime(target / path, ns=(changed_ns, changed_ns))
            self._sent[path] = _state(target / path)

    def start(self) -> None:
        """Begin to keep both equal."""
        self._run.beat(self._number)
        self._wish = self._run.wish()
        write_wish(self.folder.control, self._run.wish())
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()

    def push_last(self) -> None:
        """Bring out what is left.

        Raises:
            RunError: ``run.leased``: another worker has taken the run over; nothing of it is touched.
            NetworkError: The store does not answer, again and again.
        """
        for tries_left in reversed(range(_LAST_TRIES)):
            try:
                self._push_events()
                self._push_files()
                break
            except NetworkError:
                if not tries_left:
                    raise
                time.sleep(_TICK_SECONDS)

    def leave(self, code: int) -> None:
        """Bring out what was told and, within some seconds, the files, and end the attempt: the process ends behind it.

        Raises:
            RunError: ``run.leased``: another worker has taken the run over; nothing of it is touched.
        """
        self._done.set()
        rest = threading.Thread(target=self._push_rest, name="leaving copy", daemon=True)
        rest.start()
        rest.join(_LEAVING_SECONDS)
        self._require_mine()
        self._run.end(self._number, code)

    def _push_rest(self) -> None:
        # Not behind a large file that the other thread may be sending.
        with suppress(NetworkError):
            self._push_events()
        self.stop()
        self.push_last()

    def _get(self, path: str, target: str) -> None:
        place = self.folder.path.joinpath(*safe_path(target).parts)
        with telling_output_errors(place):
            place.parent.mkdir(parents=True, exist_ok=True)
        self._run.store.get(path, place)
        if place.stat().st_nlink > 1:
            # A folder hands out links; what the worker does to its files must not reach the store by them.
            own = place.with_name(f"{place.name}{SCRATCH_MARK}own")
            with telling_output_errors(place):
                shutil.copyfile(place, own)
                own.replace(place)

    def _keep_equal(self) -> None:
        beaten = files_at = time.monotonic()
        while not self._done.wait(_TICK_SECONDS):
            now = time.monotonic()
            try:
                self._take_wish()
                self._push_events()
                if now - beaten >= BEAT_SECONDS:
                    self._run.beat(self._number)
                    beaten = now
                if now - files_at >= _FILES_SECONDS or self._invitation_changed():
                    self._push_files()
                    files_at = now
            except RunError:
                # Somebody else goes on with the run: this worker is to stop, and its folder goes nowhere.
                self._lost = True
                write_wish(self.folder.control, "pause")
                return
            except TunesmithError:
                # The next turn tries again; what cannot be brought out at the end is told then.
                continue

    def _take_wish(self) -> None:
        wish = self._run.wish()
        if wish != self._wish:
            self._wish = wish
            write_wish(self.folder.control, wish)

    def _invitation_changed(self) -> bool:
        """Whether other machines are waited for, or not any more, and do not know it yet."""
        place = self.folder.path / MEETING
        return place.exists() != (MEETING in self._sent)

    def _push_events(self) -> None:
        self._require_mine()
        with self._pushing:
            with self.folder.events.open("rb") as file:
                file.seek(self._events_sent)
                content = file.read()
            whole = content[: content.rfind(b"\n") + 1]
            if not whole:
                return
            if not self._run.add_events(_first_number(whole), whole):
                raise self._taken_over()
            self._events_sent += len(whole)

    def _push_files(self) -> None:
        self._require_mine()
        there, before = dict(_files(self.folder.path)), dict(self._sent)
        for path in sorted(set(self._sent) - set(there), key=_manifests_first):
            self._run.store.remove(f"{FILES}/{path}")
            del self._sent[path]
        for path in sorted(there, key=_manifests_last):
            if self._sent.get(path) == there[path]:
                continue
            try:
                self._run.store.put(self.folder.path / path, f"{FILES}/{path}")
            except (FileNotFoundError, OutputError):
                if (self.folder.path / path).exists():
                    raise
                # A checkpoint that was let go meanwhile.
                continue
            self._sent[path] = there[path]
        if self._sent != before:
            self._run.write_files(self._sent)

    def _require_mine(self) -> None:
        if self._lost or not self._run.is_mine(self._number):
            raise self._taken_over()

    def _taken_over(self) -> RunError:
        return RunError(
            "another worker has taken this run over",
            code="run.leased",
            place=self._run.store.url,
            hint="that one goes on with it",
        )


def _files(folder: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        parts = name.split("/")
        if parts[0] == INPUTS or name in _OWN or any(one.startswith(".") or SCRATCH_MARK in one for one in parts):
            continue
        try:
            if path.is_file():
                yield name, _state(path)
        except FileNotFoundError:
            continue


def _state(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_size, state.st_mtime_ns


def _manifests_last(path: str) -> tuple[int, str]:
    """A folder is whole once its manifest is there, and the run once its own is: that one comes last of all."""
    return (2 if path == _MANIFEST else 1 if path.endswith(f"/{_MANIFEST}") else 0), path


def _manifests_first(path: str) -> tuple[int, str]:
    rank, name = _manifests_last(path)
    return -rank, name


def _first_number(lines: bytes) -> int:
    import orjson

    return int(orjson.loads(lines[: lines.index(b"\n")])["seq"])
