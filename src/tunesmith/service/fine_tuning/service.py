"""What may be done with jobs that are there: look at them, cancel, pause, let them go on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, func, select, update

from tunesmith.service.auth.caller import Caller
from tunesmith.service.context import Context
from tunesmith.service.db.database import Database
from tunesmith.service.db.tables.jobs import JOB_CHECKPOINTS, JOB_EVENTS, JOBS
from tunesmith.service.errors import ApiError, not_found
from tunesmith.service.fine_tuning.schema import checkpoint_json, event_json, job_json
from tunesmith.service.fine_tuning.states import TERMINAL, Reason, State, Step, Wish, take
from tunesmith.service.fine_tuning.telling import Line, say
from tunesmith.service.lists import page
from tunesmith.service.shared.metering import require_budget
from tunesmith.service.shared.telling import note_action, tell

_JOB, _PARAM = "fine-tuning job", "fine_tuning_job_id"
CANCELLED = Line("Fine-tuning job cancelled")
PAUSED = Line("Fine-tuning job paused")


def find_job(connection: Connection, project_id: str, job_id: str) -> Row[Any]:
    """A job of a project.

    Raises:
        ApiError: 404: there is none, or it is another project's.
    """
    query = select(JOBS).where(JOBS.c.id == job_id, JOBS.c.project_id == project_id)
    row: Row[Any] | None = connection.execute(query).first()
    if row is None:
        raise not_found(_JOB, job_id, _PARAM)
    return row


def list_jobs(
    context: Context, caller: Caller, *, after: str | None, limit: int, metadata: Mapping[str, str] | str | None
) -> dict[str, Any]:
    """A page of a project's jobs, newest first.

    Args:
        context: The service.
        caller: Who asks.
        after: The last job of the page before.
        limit: Most of a page.
        metadata: Pairs that jobs must have; ``null``: only jobs without metadata; None: all jobs.
    """
    query = select(JOBS).where(JOBS.c.project_id == caller.project_id)
    if metadata == "null":
        query = query.where(JOBS.c.metadata.is_(None))
    elif isinstance(metadata, Mapping):
        query = query.where(*(_has_pair(context.database, key, value) for key, value in metadata.items()))
    with context.database.read() as connection:
        return page(
            connection,
            query,
            JOBS.c.id,
            lambda row: job_json(row, context.settings.organization),
            after=after,
            limit=limit,
        )


def _has_pair(database: Database, key: str, value: str) -> ColumnElement[bool]:
    """That a job has this pair in its metadata, whatever letters the key has."""
    if database.is_postgresql:
        named: ColumnElement[bool] = JOBS.c.metadata[key].as_string() == value
        return named
    # A path of SQLite's cannot name a key with a quotation mark.
    pairs = func.json_each(JOBS.c.metadata).table_valued("key", "value")
    return select(pairs.c.key).where(pairs.c.key == key, pairs.c.value == value).exists()


def list_events(context: Context, caller: Caller, job_id: str, *, after: str | None, limit: int) -> dict[str, Any]:
    """A page of a job's events, newest first."""
    with context.database.read() as connection:
        find_job(connection, caller.project_id, job_id)
        query = select(JOB_EVENTS).where(JOB_EVENTS.c.job_id == job_id)
        return page(connection, query, JOB_EVENTS.c.id, event_json, after=after, limit=limit)


def list_checkpoints(context: Context, caller: Caller, job_id: str, *, after: str | None, limit: int) -> dict[str, Any]:
    """A page of a job's checkpoints, newest first."""
    with context.database.read() as connection:
        find_job(connection, caller.project_id, job_id)
        query = select(JOB_CHECKPOINTS).where(JOB_CHECKPOINTS.c.job_id == job_id)
        return page(connection, query, JOB_CHECKPOINTS.c.id, checkpoint_json, after=after, limit=limit)


def cancel(context: Context, caller: Caller, job_id: str) -> dict[str, Any]:
    """Let a job stop for good: at once where nobody works for it, else as soon as its worker hears of it.

    Raises:
        ApiError: 400 ``invalid_job_state``: it has ended already.
    """
    at_once = Step(
        (State.VALIDATING, State.QUEUED, State.PAUSED), State.CANCELLED, Reason.CANCELLED_BY_USER, (CANCELLED,)
    )
    return _wish(context, caller, job_id, Wish.CANCEL, at_once)


def pause(context: Context, caller: Caller, job_id: str) -> dict[str, Any]:
    """Let a job save a checkpoint and wait until it is resumed.

    Raises:
        ApiError: 400 ``invalid_job_state``: it neither waits nor runs.
    """
    return _wish(
        context, caller, job_id, Wish.PAUSE, Step((State.QUEUED,), State.PAUSED, Reason.PAUSED_BY_USER, (PAUSED,))
    )


def resume(context: Context, caller: Caller, job_id: str) -> dict[str, Any]:
    """Let a paused job go on from its last checkpoint, when its turn comes.

    Raises:
        ApiError: 400 ``invalid_job_state``: it is not paused; 429: the project's budget is spent.
    """
    with context.database.read() as connection:
        require_budget(context, connection, caller.project_id)
    line = Line("Fine-tuning job resumed, moving it to queued state")
    step = Step((State.PAUSED,), State.QUEUED, Reason.RESUMED, (line,), {"error": None})
    return _wish(context, caller, job_id, Wish.RUN, step)


# From where each wish makes sense.
_FROM = {
    Wish.CANCEL: frozenset(State) - TERMINAL,
    Wish.PAUSE: frozenset({State.QUEUED, State.RUNNING}),
    Wish.RUN: frozenset({State.PAUSED}),
}
_WORDS = {Wish.CANCEL: "cancelled", Wish.PAUSE: "paused", Wish.RUN: "resumed"}


def _wish(context: Context, caller: Caller, job_id: str, wish: Wish, step: Step) -> dict[str, Any]:
    now = context.now()
    with context.database.write() as connection:
        row = _locked(connection, caller.project_id, job_id)
        is_pausing = wish == Wish.RUN and row.state == State.RUNNING and row.wish == Wish.PAUSE
        if row.state not in _FROM[wish] and not is_pausing:
            raise ApiError(
                400,
                f"A job that is {row.state} cannot be {_WORDS[wish]}",
                code="invalid_job_state",
                param=_PARAM,
            )
        # What was begun on a platform has to be ended there by a dispatcher.
        is_begun = row.run is not None and wish == Wish.CANCEL
        done = not is_begun and take(connection, job_id, _with(step, wish), now)
        if not done:
            values: dict[str, Any] = {"wish": wish, "look_at": None}
            is_new = row.state == State.RUNNING and row.wish != wish
            if is_new:
                # A budget may have wished something before.
                values["reason"] = Reason.STARTED
            connection.execute(update(JOBS).where(JOBS.c.id == job_id).values(**values))
            if is_new:
                say(connection, job_id, Line(f"The job is to be {_WORDS[wish]}"), now)
        note_action(context, connection, caller, f"job.{_ACTIONS[wish]}", target=job_id)
        if done:
            told = "resumed" if wish == Wish.RUN else step.target
            tell(context, connection, row.project_id, f"fine_tuning.job.{told}", {"id": job_id})
        row = find_job(connection, caller.project_id, job_id)
    return job_json(row, context.settings.organization)


_ACTIONS = {Wish.CANCEL: "cancel", Wish.PAUSE: "pause", Wish.RUN: "resume"}


def _locked(connection: Connection, project_id: str, job_id: str) -> Row[Any]:
    query = select(JOBS).where(JOBS.c.id == job_id, JOBS.c.project_id == project_id).with_for_update()
    row: Row[Any] | None = connection.execute(query).first()
    if row is None:
        raise not_found(_JOB, job_id, _PARAM)
    return row


def _with(step: Step, wish: Wish) -> Step:
    values = {"wish": wish, "look_at": None}
    return Step(step.origins, step.target, step.reason, step.lines, {**(step.values or {}), **values})
