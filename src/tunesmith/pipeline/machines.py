"""How other machines take part in a training: they are invited, take places, show that they live, and say what failed.

The invitation is a file in the run folder, which lies on a disk that all machines see; everything else goes through the
worker's store. A secret of each attempt, in both, tells the store of this attempt from any other.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from torch.distributed.distributed_c10d import Store

from tunesmith.errors import ResourceError, Stopped, TunesmithError, UsageError, WorkerError, from_json
from tunesmith.pipeline.meeting import RankJob
from tunesmith.runs.atomic import read_json, write_json
from tunesmith.storage.run_store import MEETING

_OTHERS_SECONDS = 3600.0
_BEAT_SECONDS = 1.0
# While machines come and go, one that has been silent for this long is gone; at work, longer, since it may be busy.
_GONE_SECONDS = 5.0
_LOST_SECONDS = 60.0
_LEFT = b"left"
_TOKEN, _JOB, _TICKETS, _BEGUN, _FAILED = "token", "job", "tickets", "begun", "failed"


@dataclass(frozen=True)
class Invitation:
    """Where a training waits for other machines, and how to know it."""

    address: str
    port: int
    token: str


def invite(run_folder: Path, store: Store, job: RankJob) -> None:
    """Tell other machines where to come, and what all ranks agree on."""
    token = secrets.token_hex(16)
    store.set(_TOKEN, token)
    store.set(_JOB, job_text(job))
    write_json(run_folder / MEETING, asdict(Invitation(job.address, job.port, token)))


def withdraw(run_folder: Path) -> None:
    """Nobody is waited for, or not any more."""
    (run_folder / MEETING).unlink(missing_ok=True)


def find_invitation(run_folder: Path) -> Invitation | None:
    """Where to come, once a training waits."""
    try:
        return Invitation(**read_json(run_folder / MEETING))
    except (OSError, ValueError, TypeError):
        return None


def is_of(store: Store, invitation: Invitation) -> bool:
    """Whether this is the store that the invitation means, and not one that came to its port later."""
    return store.check([_TOKEN]) and store.get(_TOKEN).decode() == invitation.token


def job_text(job: RankJob) -> str:
    """A job as one line."""
    return json.dumps(asdict(job))


def job_from_text(text: str | bytes) -> RankJob:
    """The job of a line."""
    raw = json.loads(text)
    return RankJob(**{**raw, "watched": tuple(raw["watched"])})


def offered_job(store: Store) -> RankJob:
    """What all ranks agree on."""
    return job_from_text(store.get(_JOB))


@dataclass
class Guests:
    """The other machines, as the worker sees them through its store: which live, and what one failed with."""

    store: Store
    seen: dict[int, tuple[bytes, float]] = field(default_factory=dict)
    places: dict[int, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def wait(self, nodes: int, should_stop: Callable[[], bool]) -> None:
        """Until so many machines live, this one among them; then give each its place, from 1.

        Raises:
            Stopped: The user asked to stop.
            ResourceError: They did not come within an hour.
        """
        until = time.monotonic() + _OTHERS_SECONDS
        while len(living := self._living(_GONE_SECONDS)) < nodes - 1:
            if should_stop():
                raise Stopped("stopped while waiting for other machines")
            if time.monotonic() > until:
                raise ResourceError(
                    "other machines did not come within an hour",
                    code="resource.machines",
                    place="train.nodes",
                    value=f"{1 + len(living)} of {nodes} are there",
                    hint="run `tunesmith join` with the run's name on each of the others",
                )
            time.sleep(0.2)
        self.places = {ticket: place for place, ticket in enumerate(living[: nodes - 1], start=1)}
        for ticket, place in self.places.items():
            self.store.set(f"place.{ticket}", str(place))
        self.store.set(_BEGUN, "yes")

    def error(self) -> TunesmithError | None:
        """What a machine that has a place failed with, or that it is lost."""
        if self.store.check([_FAILED]):
            return from_json(json.loads(self.store.get(_FAILED)))
        return self._lost(_LOST_SECONDS)

    def _lost(self, most_seconds: float) -> TunesmithError | None:
        living = set(self._living(most_seconds))
        # One that has left has ended well, or has said why not.
        lost = {ticket for ticket in self.places if ticket not in living and self.seen[ticket][0] != _LEFT}
        if not lost:
            return None
        return WorkerError(
            "a machine of the training does not answer any more",
            code="worker.rank_died",
            value=f"machine {1 + self.places[min(lost)]}",
            hint="resume the run, and run `tunesmith join` there again",
        )

    def silent(self) -> TunesmithError | None:
        """The same, when the connection to a machine is known to be broken: silence of seconds is enough then."""
        until = time.monotonic() + 2 * _GONE_SECONDS
        while time.monotonic() < until:
            found = self.error() or self._lost(_GONE_SECONDS)
            if found is not None:
                return found
            time.sleep(0.5)
        return None

    def _living(self, most_seconds: float) -> list[int]:
        """Tickets whose beat has changed within so many seconds."""
        # The worker's watching thread asks too.
        with self.lock:
            now = time.monotonic()
            for ticket in range(1, 1 + self.store.add(_TICKETS, 0)):
                key = f"beat.{ticket}"
                beat = self.store.get(key) if self.store.check([key]) else b"0"
                if beat != self.seen.get(ticket, (b"0", 0.0))[0]:
                    self.seen[ticket] = (beat, now)
            return sorted(
                ticket for ticket, (beat, when) in self.seen.items() if beat != _LEFT and now - when <= most_seconds
            )


class Guest:
    """This machine, as a guest of a training; beats from when it is made until it leaves."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._ticket = store.add(_TICKETS, 1)
        self._left = threading.Event()
        self._beating = threading.Thread(target=self._beat, name="beat", daemon=True)
        self._beating.start()

    def await_place(self, should_stop: Callable[[], bool]) -> int:
        """This machine among all, once as many are there as the training wants.

        Raises:
            Stopped: The user asked to stop.
            UsageError: The training began without this one.
            WorkerError: The worker is gone.
        """
        key = f"place.{self._ticket}"
        while not self._asks(key):
            if should_stop():
                raise Stopped("stopped while waiting for the training to begin")
            if self._asks(_BEGUN) and not self._asks(key):
                raise UsageError("the training has all the machines that it wants", code="usage.machines")
            time.sleep(0.2)
        return int(self._store.get(key))

    def tell(self, error: TunesmithError) -> None:
        """Tell the worker, and so all others, what went wrong here; the first word counts."""
        if self.owner_is_there():
            self._store.compare_set(_FAILED, "", json.dumps(error.to_json()))

    def owner_is_there(self) -> bool:
        """Whether the worker that owns the run still answers."""
        try:
            self._store.check([_TOKEN])
        except RuntimeError:
            return False
        return True

    def leave(self) -> None:
        """Beat no more, and say so: the place is free."""
        self._left.set()
        self._beating.join()
        if self.owner_is_there():
            self._store.set(f"beat.{self._ticket}", _LEFT.decode())

    def _asks(self, key: str) -> bool:
        try:
            return self._store.check([key])
        except RuntimeError as error:
            raise WorkerError(
                "the worker that owns the run is gone", code="worker.unreachable", hint="start it there, and join again"
            ) from error

    def _beat(self) -> None:
        beats = 0
        while not self._left.is_set():
            beats += 1
            try:
                self._store.set(f"beat.{self._ticket}", str(beats))
            except RuntimeError:
                return
            self._left.wait(_BEAT_SECONDS)
