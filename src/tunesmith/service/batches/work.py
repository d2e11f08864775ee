"""Works for batches: checks their files, asks their requests, writes their answers.

What is answered lies in the scratch folder of this machine line by line, so that a process that was killed goes on
where it was. On another machine a batch begins again; what is paid is what its file of answers has. A long batch is
worked for in turns, so that those of other projects need not wait for its end.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
import time
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Row

from tunesmith.errors import NetworkError, TunesmithError
from tunesmith.jobs.batch import BatchFiles, begin_batch, count_refused, run_batch, sole_writer
from tunesmith.service.auth.caller import Caller
from tunesmith.service.batches.asking import Asker, StoppedError
from tunesmith.service.batches.beat import Beat, Why
from tunesmith.service.batches.checking import check_file
from tunesmith.service.batches.finishing import Outcome, cost_of, fail, finish, tokens_in
from tunesmith.service.batches.states import give_turn, leave, move, take
from tunesmith.service.context import Context
from tunesmith.service.errors import ApiError
from tunesmith.service.shared.choosing import choose
from tunesmith.service.shared.engines import ensure_engine, place_of
from tunesmith.service.shared.files import find_file, local_copy
from tunesmith.service.shared.metering import require_budget
from tunesmith.service.shared.naming import Named, require_model
from tunesmith.service.shared.working import LostError, work_in_turn

_log = logging.getLogger(__name__)
_AT_ONCE = 2
_REQUESTS_AT_ONCE = 8
_LATER_SECONDS = 30.0
_BUDGET_SECONDS = 30.0
# An engine that breaks off so often without one more answer is left alone for a while.
_MOST_BREAKS = 3
_BREAK_SECONDS = 1.0


def run_batches(context: Context, stop: threading.Event) -> None:
    """Work for batches until told to stop; the dispatcher's process has a thread for it.

    Args:
        context: The service.
        stop: Set when the process shall end.
    """
    work_in_turn("batches", _AT_ONCE, lambda: take(context), lambda row: work(context, row, stop), stop)


def work(context: Context, row: Row[Any], stop: threading.Event) -> None:
    """Bring one batch as far as it goes.

    Args:
        context: The service.
        row: A batch that was taken.
        stop: Set when the process shall end.
    """
    try:
        try:
            _go_on(context, row, stop)
        except ApiError as error:
            if error.status >= 500:
                _log.warning("batch %s waits: %s", row.id, error)
                leave(context, row, _LATER_SECONDS)
            else:
                fail(context, row, str(error.detail.code or "failed"), error.detail.message)
        except TunesmithError as error:
            _log.error("batch %s waits: %s", row.id, error.message)
            leave(context, row, _LATER_SECONDS)
    except LostError:
        # Another process has it, or it was cancelled at this moment; then it is taken again for that.
        _log.info("batch %s was changed meanwhile", row.id)
        with contextlib.suppress(LostError):
            leave(context, row, 0)


def _go_on(context: Context, row: Row[Any], stop: threading.Event) -> None:
    # Its project decides what it may; nobody's scope is asked for again.
    caller = Caller("inference", False, row.project_id, f"batch {row.id}", row.key_id, None, "", None)
    with context.database.read() as connection:
        file = find_file(connection, row.project_id, row.input_file_id, param="input_file_id", even_deleted=True)
    with Beat(context, row, stop) as beat, local_copy(context, file.place) as source:
        if row.model is None:
            found = _checked(context, row, caller, source)
            if found is None:
                return
            row = found
        folder = context.scratch / row.id
        files = BatchFiles(source, folder / "answers.jsonl")
        with sole_writer(files):
            outcome, errors = _outcome(context, row, caller, files, beat)
            if outcome is None:
                if beat.is_turn_over():
                    give_turn(context, row)
                else:
                    # The next one need not wait for the lock to end.
                    leave(context, row, 0)
                return
            finish(context, row, files, outcome, errors)
        shutil.rmtree(folder, ignore_errors=True)


def _checked(context: Context, row: Row[Any], caller: Caller, source: Path) -> Row[Any] | None:
    """Look at every line before the first one is asked; None where the batch has ended with that."""
    if row.state == "cancelling":
        with context.database.write() as connection:
            move(context, connection, row, "cancelled", ("cancelling",))
        return None
    checked = check_file(source, row.endpoint, context.settings.limits.batch_requests)
    errors, named = checked.errors, None
    if not errors and checked.model is not None:
        try:
            with context.database.read() as connection:
                named = choose(context, connection, caller, checked.model, in_batch=True).named
        except ApiError as error:
            detail = error.detail
            errors = [{"code": detail.code, "message": detail.message, "param": "body.model", "line": None}]
    with context.database.write() as connection:
        if named is None:
            total = checked.total
            move(context, connection, row, "failed", ("validating", "cancelling"), errors=errors, total=total)
            return None
        values = {"total": checked.total, "model": named.name}
        return move(context, connection, row, "in_progress", ("validating",), **values)


def _outcome(
    context: Context, row: Row[Any], caller: Caller, files: BatchFiles, beat: Beat
) -> tuple[Outcome | None, list[dict[str, Any]] | None]:
    """Ask what is not answered yet; how the batch ends, and why; None where it does not end yet.

    Whatever ends it, what was answered before is kept and paid.
    """
    # Also of a batch that asks nothing more: what a crash tore is cut off before its answers are read.
    done = begin_batch(files, (row.model,))
    if row.state == "cancelling":
        return "cancelled", None
    try:
        with context.database.read() as connection:
            named = require_model(context, connection, caller, row.model)
        why = _ask_all(context, row, named, files, done=done, beat=beat)
    except ApiError as error:
        if error.status >= 500:
            raise
        detail = error.detail
        return "failed", [{"code": detail.code, "message": detail.message, "param": None, "line": None}]
    if why in ("lost", "ending", "turn"):
        return None, None
    return {"cancelling": "cancelled", "expired": "expired", "all": "completed"}[why], None  # type: ignore[return-value]


def _ask_all(
    context: Context, row: Row[Any], named: Named, files: BatchFiles, *, done: set[str], beat: Beat
) -> Why | Literal["all", "turn"]:
    """Ask all that is open; engines that break off are waited for, and the rest is asked again."""
    place, breaks = place_of(context, named), 0
    while len(done) < row.total:
        why = beat.why_stop()
        if why is not None:
            return why
        if beat.is_turn_over():
            return "turn"
        engine = ensure_engine(context, place.base, context.settings.engine_wait_seconds)
        before = len(done)
        try:
            with Asker(engine, place, beat, row.project_id) as asker:
                _ask_some(context, row, named, files, done=done, asker=asker, beat=beat)
        except StoppedError:
            continue
        except NetworkError as error:
            _log.warning("batch %s: %s", row.id, error.message)
            # Whoever keeps engines has to see first that this one is gone.
            beat.pause(_BREAK_SECONDS * 2**breaks)
        done = begin_batch(files, (named.name,))
        breaks = 0 if len(done) > before else breaks + 1
        if breaks >= _MOST_BREAKS:
            raise ApiError(503, "its engine breaks off again and again", code="engine_unavailable")
    return "all"


def _ask_some(
    context: Context,
    row: Row[Any],
    named: Named,
    files: BatchFiles,
    *,
    done: set[str],
    asker: Asker,
    beat: Beat,
) -> None:
    refused_before = count_refused(files)
    looked = 0.0

    def note(finished: int, _: int) -> None:
        nonlocal looked
        refused = refused_before + asker.refused
        beat.tell(finished - refused, refused, asker.engine.base)
        if beat.why_stop() is not None:
            raise StoppedError
        if time.monotonic() - looked > _BUDGET_SECONDS:
            looked = time.monotonic()
            coming = cost_of(context, named, *tokens_in(files))
            with context.database.read() as connection:
                require_budget(context, connection, row.project_id, coming)

    run_batch(
        files,
        asker,
        model=None,
        done=done,
        concurrency=_REQUESTS_AT_ONCE,
        ordered=False,
        on_progress=note,
        total=row.total,
        goes_on=lambda: not beat.is_turn_over(),
    )
