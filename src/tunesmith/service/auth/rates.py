"""How often somebody asked lately, counted by all processes of a service together.

Each process counts for itself and tells the others once a second, through the database: no request waits for a write of
its own. In between a process does not know what the others let in, so that of a limit of L a minute with P processes at
most L / 60 more a second and process get through than should. A restarted process reads what was counted before.

A minute slides: what was counted in the minute before counts by the part of it that is less than 60 seconds ago.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import delete, select

from tunesmith.service.db.database import Database
from tunesmith.service.db.tables.accounts import RATES

MINUTE_SECONDS = 60.0
_TELL_SECONDS = 1.0
_GOOD_SECONDS = 600.0
_MOST_GOOD = 10_000


@dataclass(frozen=True)
class Allowance:
    """What is left of a limit.

    Attributes:
        limit: A minute.
        remaining: Of it, now.
        reset_seconds: Until all of it is there again, if nobody asks.
        wait_seconds: Until what was asked for would be let in; 0 where it was.
    """

    limit: int
    remaining: int
    reset_seconds: float
    wait_seconds: float

    @property
    def is_granted(self) -> bool:
        """Whether it was let in."""
        return self.wait_seconds == 0


class Rates:
    """The counts of one process, and what it knows of the others'."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._telling = threading.Lock()
        self._told_at = -math.inf
        # By subject and minute: of all processes, as far as known; and what the others have not been told.
        self._known: Counter[tuple[str, int]] = Counter()
        self._untold: Counter[tuple[str, int]] = Counter()
        self._good: dict[str, float] = {}
        self._limits: dict[str, tuple[float, tuple[int | None, int | None]]] = {}

    def take(self, database: Database, now: float, limits: Mapping[str, int], amount: int = 1) -> dict[str, Allowance]:
        """Count one request against several limits, if all of them allow it.

        Args:
            database: Where the processes tell each other.
            now: The time.
            limits: A minute, by subject.
            amount: How much it is.
        """
        self._tell(database, now)
        with self._lock:
            found = {subject: self._allowance(subject, now, limit, amount) for subject, limit in limits.items()}
            if all(one.is_granted for one in found.values()):
                for subject in limits:
                    self._add(subject, now, amount)
                return {subject: self._after(one, amount) for subject, one in found.items()}
            return found

    def look(self, database: Database, now: float, subject: str, limit: int, amount: int) -> Allowance:
        """What is left of a limit, and whether an amount would be let in; nothing is counted."""
        self._tell(database, now)
        with self._lock:
            return self._allowance(subject, now, limit, amount)

    def count(self, now: float, subject: str, amount: int = 1) -> None:
        """Count what cannot be refused any more."""
        with self._lock:
            self._add(subject, now, amount)

    def note_good(self, hash_: str, now: float) -> None:
        """A key was found good."""
        with self._lock:
            if len(self._good) >= _MOST_GOOD:
                self._good.clear()
            self._good[hash_] = now

    def was_good(self, hash_: str, now: float) -> bool:
        """Whether a key was found good a short while ago."""
        return now - self._good.get(hash_, -math.inf) < _GOOD_SECONDS

    def remembered_limits(self, project_id: str, now: float) -> tuple[int | None, int | None] | None:
        """A project's own limits of requests and tokens, if they were read within the last second."""
        read_at, limits = self._limits.get(project_id, (-math.inf, None))
        return limits if now - read_at < _TELL_SECONDS else None

    def remember_limits(self, project_id: str, now: float, limits: tuple[int | None, int | None]) -> None:
        """Keep a project's own limits for a second."""
        self._limits[project_id] = (now, limits)

    def _allowance(self, subject: str, now: float, limit: int, amount: int) -> Allowance:
        minute, part = divmod(now, MINUTE_SECONDS)
        before, current = self._known[subject, int(minute) - 1], self._known[subject, int(minute)]
        used = before * (1 - part / MINUTE_SECONDS) + current
        rest = MINUTE_SECONDS - part
        reset = rest + MINUTE_SECONDS if current else rest if before else 0.0
        wait = _wait(before, current, limit - amount, part)
        return Allowance(limit, max(0, math.floor(limit - used)), reset, wait)

    @staticmethod
    def _after(one: Allowance, amount: int) -> Allowance:
        return Allowance(one.limit, max(0, one.remaining - amount), max(one.reset_seconds, 1.0), 0.0)

    def _add(self, subject: str, now: float, amount: int) -> None:
        at = (subject, int(now // MINUTE_SECONDS))
        self._known[at] += amount
        self._untold[at] += amount

    def _tell(self, database: Database, now: float) -> None:
        """Tell the others what was counted here, and hear of theirs; one thread at a time, the others go on."""
        if now - self._told_at < _TELL_SECONDS or not self._telling.acquire(blocking=False):
            return
        try:
            with self._lock:
                untold, self._untold = self._untold, Counter()
            oldest = int(now // MINUTE_SECONDS) - 1
            try:
                found = _exchange(database, untold, oldest)
            except BaseException:
                with self._lock:
                    self._untold.update(untold)
                raise
            with self._lock:
                self._known = found + self._untold
                self._told_at = now
        finally:
            self._telling.release()


def forget_old(database: Database, now: float) -> None:
    """Remove minutes that no limit looks at any more."""
    with database.write() as connection:
        connection.execute(delete(RATES).where(RATES.c.minute < int(now // MINUTE_SECONDS) - 1))


def _exchange(database: Database, untold: Mapping[tuple[str, int], int], oldest: int) -> Counter[tuple[str, int]]:
    recent = select(RATES).where(RATES.c.minute >= oldest)
    if not untold:
        with database.read() as connection:
            return Counter({(row.subject, row.minute): row.quantity for row in connection.execute(recent)})
    with database.write() as connection:
        # In one order, so that no two processes wait for each other.
        for (subject, minute), amount in sorted(untold.items()):
            row = {"subject": subject, "minute": minute, "quantity": amount}
            added = {"quantity": RATES.c.quantity + amount}
            database.upsert(connection, RATES, row, ["subject", "minute"], added)
        return Counter({(row.subject, row.minute): row.quantity for row in connection.execute(recent)})


def _wait(before: int, current: int, room: int, part: float) -> float:
    """Seconds until no more than ``room`` counts; 0 where that is so now.

    Args:
        before: Counted in the minute before.
        current: Counted in this one.
        room: What may be counted.
        part: Seconds of this minute that have gone by.
    """
    if before * (1 - part / MINUTE_SECONDS) + current <= room:
        return 0.0
    if current <= room:
        return MINUTE_SECONDS * (1 - (room - current) / before) - part
    # Only once this minute is the one before.
    gone = MINUTE_SECONDS * (1 - max(room, 0) / current)
    return MINUTE_SECONDS - part + gone
