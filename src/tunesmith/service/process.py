"""A process of a service: what it writes down, when it ends, and with which word."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence
from importlib import import_module
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import FrameType

from tunesmith.errors import UsageError, WorkerError
from tunesmith.runs.parent import watch_parent
from tunesmith.service.context import Context, open_context
from tunesmith.service.db.migrate import newest, revision_of
from tunesmith.service.settings import Settings
from tunesmith.service.shared.traces import start_traces, stop_traces

# What a role does, each in a thread: ``MODULE:FUNCTION``, called with the context and an event; it returns soon after
# the event is set. Modules are named and not imported, so that no role loads what another one needs.
WORK: dict[str, tuple[str, ...]] = {
    "dispatcher": (
        "tunesmith.service.dispatcher.loop:run",
        "tunesmith.service.batches.work:run_batches",
        "tunesmith.service.evaluations.work:run_evaluations",
    ),
    "engines": ("tunesmith.service.engines.host:run",),
}
Work = Callable[[Context, threading.Event], None]
_log = logging.getLogger(__name__)
_LOG_BYTES = 16 * 2**20
_LOG_FILES = 5
# Of httpx every request would be a line, with its query.
_QUIET = ("httpx", "httpcore", "alembic")


def run_work(role: str, settings: Settings, *, name: str, parent_pid: int | None) -> None:
    """Do the work of a role until SIGTERM, SIGINT, or the end of the parent.

    Args:
        role: One of ``WORK``.
        settings: The service.
        name: What the log is called.
        parent_pid: The process whose end ends this one.
    """
    begin_log(settings, name)
    stop = threading.Event()

    def ask(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask)
    end_with(parent_pid)
    context = open_current(settings)
    start_traces(settings, role)
    try:
        run_together([_function(place) for place in WORK[role]], context, stop)
    finally:
        stop_traces()
        context.database.close()


def run_together(work: Sequence[Work], context: Context, stop: threading.Event) -> None:
    """Do several things at once; the end of one is the end of all, so that no process lives on with half of its work.

    Raises:
        WorkerError: ``service.work_failed``: one of them ended by an error, which is in the log.
    """
    failed: list[str] = []

    def one(do: Work) -> None:
        try:
            do(context, stop)
        except Exception:
            _log.exception("%s failed", do.__module__)
            failed.append(do.__module__)
        finally:
            stop.set()

    threads = [threading.Thread(target=one, args=(do,), name=do.__module__) for do in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise WorkerError("a part of the process failed", code="service.work_failed", value=", ".join(failed))


def _function(place: str) -> Work:
    module, _, name = place.partition(":")
    found: Work = getattr(import_module(module), name)
    return found


def open_current(settings: Settings) -> Context:
    """The context of a service whose tables are those of this program.

    Raises:
        UsageError: ``service.older_database``: they are not; the command that changes them is told.
    """
    context = open_context(settings)
    found, wanted = revision_of(context.database), newest()
    if found != wanted:
        raise UsageError(
            f"the database has the tables of version {found or 'none'}, and this program wants {wanted}",
            code="service.older_database",
            hint="run `tunesmith service migrate` first",
        )
    return context


def end_with(parent_pid: int | None) -> None:
    """Ask this process to end as soon as another one has; a keeper that was killed says nothing."""
    if parent_pid is not None:
        watch_parent(parent_pid, lambda: os.kill(os.getpid(), signal.SIGTERM))


def begin_log(settings: Settings, name: str) -> None:
    """Write the log of this process to ``logs/NAME.log``, or to stderr where the settings say so."""
    handler = logging.StreamHandler() if settings.logs == "stderr" else _file_handler(settings.logs_folder, name)
    handler.setFormatter(logging.Formatter(f"%(asctime)s {name} %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    for quiet in _QUIET:
        logging.getLogger(quiet).setLevel(logging.WARNING)


def _file_handler(folder: Path, name: str) -> logging.Handler:
    folder.mkdir(parents=True, exist_ok=True)
    return RotatingFileHandler(
        folder / f"{name}.log", maxBytes=_LOG_BYTES, backupCount=_LOG_FILES, encoding="utf-8", delay=True
    )
