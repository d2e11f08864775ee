"""The process that keeps the engines of a machine: starts those that are wanted, ends those that nobody uses.

Everything that others have to know is in the table of engines, so a host that was killed is replaced by the next one:
its engines end with it, and their rows are wanted again.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
from sqlalchemy import Row, delete, select, update
from sqlalchemy.exc import DBAPIError

from tunesmith.errors import TunesmithError
from tunesmith.service.context import Context
from tunesmith.service.db.tables.inference import ENGINES
from tunesmith.service.engines.process import EngineProcess, remove_leftovers
from tunesmith.service.engines.wishes import Wishes
from tunesmith.service.shared.engines import FAILED_SECONDS, SILENT_SECONDS, TOUCH_SECONDS, look

_log = logging.getLogger(__name__)
_TURN_SECONDS = 0.2
_BEAT_SECONDS = 5.0
_FETCHES_AT_ONCE = 2
_REASON_LETTERS = 1024
# An engine that died is started again, unless it died so often within so long.
_MOST_DEATHS, _DEATHS_SECONDS = 3, 300.0
_LAST_ANSWERS_SECONDS = 20.0


def run(context: Context, stop: threading.Event) -> None:
    """Keep engines until told to stop; answers that are under way are finished then.

    Args:
        context: The service.
        stop: Set when the process shall end.
    """
    host = Host(context)
    try:
        while not stop.is_set():
            try:
                host.turn()
            except (DBAPIError, TunesmithError) as error:
                # Engines answer on meanwhile; the database is there again in a moment.
                _log.error("engines: %s", error)
                stop.wait(1.0)
            stop.wait(_TURN_SECONDS)
    finally:
        host.close()


class Host:
    """The engines of this process.

    Args:
        context: The service.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._name = f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(4)}"
        self._fetching = ThreadPoolExecutor(_FETCHES_AT_ONCE, thread_name_prefix="fetching")
        self._engines: dict[str, EngineProcess] = {}
        self._leaving: list[EngineProcess] = []
        self._deaths: dict[str, list[float]] = {}
        self._wishes = Wishes(context)
        self._beaten = 0.0
        remove_leftovers(context)

    def turn(self) -> None:
        """Look at everything once, and do what is due."""
        self._leaving = [engine for engine in self._leaving if not engine.has_left()]
        rows = self._rows()
        self._adopt(rows)
        for engine in list(self._engines.values()):
            row = rows.get(engine.base)
            if row is None or row.host != self._name:
                # Another host believed this one to be gone.
                self._let_go(engine)
            else:
                self._follow(engine)
        self._beat()
        wanted = self._wishes.wanted()
        for base in set(wanted) - rows.keys():
            look(self._context, base)
        idle = self._wishes.idle_seconds
        now = self._context.now()
        for base, engine in list(self._engines.items()):
            # Whoever waited for it has not asked yet.
            unused = min(now - rows[base].used_at, engine.ready_seconds())
            if engine.is_ready and base not in wanted and unused > idle(base) + TOUCH_SECONDS:
                self._stop(engine, "stopped")
        self._start_wanted(rows, wanted)

    def close(self) -> None:
        """End all engines, and let others know."""
        for engine in list(self._engines.values()):
            try:
                self._stop(engine, "stopped")
            except DBAPIError as error:
                _log.error("engine %s: %s", engine.base, error)
                self._let_go(engine)
        end = time.monotonic() + _LAST_ANSWERS_SECONDS
        while self._leaving and time.monotonic() < end:
            self._leaving = [engine for engine in self._leaving if not engine.has_left()]
            time.sleep(_TURN_SECONDS)
        for engine in self._leaving:
            engine.kill()
            engine.has_left()
        self._fetching.shutdown(wait=False, cancel_futures=True)

    def _rows(self) -> dict[str, Row[Any]]:
        with self._context.database.read() as connection:
            return {row.base: row for row in connection.execute(select(ENGINES))}

    def _follow(self, engine: EngineProcess) -> None:
        """See what has become of an engine since the last turn."""
        why = engine.why_ended()
        if why is not None:
            self._ended(engine, why)
            return
        if engine.is_ready:
            return
        try:
            address = engine.address()
        except TunesmithError as error:
            self._ended(engine, "\n".join(error.lines()))
            return
        if address is not None:
            self._write(engine, state="ready", address=address, token=engine.token, reason=None)
            engine.note_ready()
            _log.info("engine %s answers at %s", engine.base, address)

    def _ended(self, engine: EngineProcess, why: str) -> None:
        """Start it again if it had worked; what cannot be loaded would only fail again."""
        now = time.monotonic()
        deaths = [at for at in self._deaths.get(engine.base, []) if now - at < _DEATHS_SECONDS] + [now]
        self._deaths[engine.base] = deaths
        state = "wanted" if engine.is_ready and len(deaths) < _MOST_DEATHS else "failed"
        _log.error("engine %s: %s", engine.base, why)
        self._stop(engine, state, why)

    def _stop(self, engine: EngineProcess, state: str, reason: str | None = None) -> None:
        reason = None if reason is None else reason[-_REASON_LETTERS:]
        self._write(engine, state=state, host=None, address=None, token=None, reason=reason)
        self._let_go(engine)

    def _let_go(self, engine: EngineProcess) -> None:
        engine.leave()
        del self._engines[engine.base]
        self._leaving.append(engine)

    def _write(self, engine: EngineProcess, **values: Any) -> None:
        own = (ENGINES.c.id == engine.row_id) & (ENGINES.c.host == self._name)
        with self._context.database.write() as connection:
            connection.execute(update(ENGINES).where(own).values(beat_at=self._context.now(), **values))

    def _beat(self) -> None:
        if not self._engines or time.monotonic() - self._beaten < _BEAT_SECONDS:
            return
        with self._context.database.write() as connection:
            mine = update(ENGINES).where(ENGINES.c.host == self._name)
            connection.execute(mine.values(beat_at=self._context.now()))
        self._beaten = time.monotonic()

    def _adopt(self, rows: dict[str, Row[Any]]) -> None:
        """Engines of hosts that are gone: wanted again if somebody waits or asked a moment ago, else forgotten."""
        for row in rows.values():
            if row.host in (None, self._name) or not self._is_gone(row):
                continue
            seen = (ENGINES.c.id == row.id) & (ENGINES.c.host == row.host)
            now = self._context.now()
            with self._context.database.write() as connection:
                if row.state in ("starting", "ready") and now - row.used_at < self._wishes.idle_seconds(row.base):
                    values = {"state": "wanted", "host": None, "address": None, "token": None}
                    connection.execute(update(ENGINES).where(seen).values(**values))
                else:
                    connection.execute(delete(ENGINES).where(seen))
            _log.warning("engine %s: its host %s is gone", row.base, row.host)

    def _is_gone(self, row: Row[Any]) -> bool:
        machine, process, _ = row.host.split("/")
        if machine == socket.gethostname() and (int(process) == os.getpid() or not psutil.pid_exists(int(process))):
            return True
        return self._context.now() - (row.beat_at or 0) > SILENT_SECONDS

    def _start_wanted(self, rows: dict[str, Row[Any]], wanted: tuple[str, ...]) -> None:
        most = self._context.settings.engines_at_once
        # Deployments that stay never fill the host, or nobody else would be answered: the last place is for who asks.
        kept = frozenset(wanted[: most - 1])
        waiting = [row for row in rows.values() if row.state == "wanted" or self._sleeps(row, wanted)]
        for row in sorted(waiting, key=lambda row: (row.state != "wanted", float(row.used_at))):
            may_end_another = row.state == "wanted" or row.base in kept
            if len(self._engines) < most or (may_end_another and self._made_room(rows, kept)):
                self._start(row)

    def _sleeps(self, row: Row[Any], wanted: tuple[str, ...]) -> bool:
        """Whether an engine that shall always be there is not."""
        has_rested = self._context.now() - (row.beat_at or 0) > FAILED_SECONDS
        return row.base in wanted and (row.state == "stopped" or (row.state == "failed" and has_rested))

    def _made_room(self, rows: dict[str, Row[Any]], kept: frozenset[str]) -> bool:
        """End the least recently used engine that may go; False where none may."""
        may_go = [engine for base, engine in self._engines.items() if engine.is_ready and base not in kept]
        if not may_go:
            return False
        self._stop(min(may_go, key=lambda engine: float(rows[engine.base].used_at)), "stopped")
        return True

    def _start(self, row: Row[Any]) -> None:
        now = self._context.now()
        with self._context.database.write() as connection:
            seen = (ENGINES.c.id == row.id) & (ENGINES.c.state == row.state) & ENGINES.c.host.is_(None)
            values = {"state": "starting", "host": self._name, "beat_at": now, "reason": None}
            taken = connection.execute(update(ENGINES).where(seen).values(**values))
        if taken.rowcount:
            self._engines[row.base] = EngineProcess(self._context, row.id, row.base, self._fetching)
