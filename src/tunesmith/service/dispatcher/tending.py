"""One look at a job by the dispatcher that holds its lock, and what follows from it.

Whatever is done outside of the database is done so that a second time finds the first: a run is named like its job,
submissions go by the job's id, versions by the run. So a dispatcher may be killed anywhere, and the next one goes on.
"""

from __future__ import annotations

import logging
from typing import Any

from sqlalchemy import Row, select
from sqlalchemy.exc import SQLAlchemyError

from tunesmith.errors import OutputError, TunesmithError
from tunesmith.jobs import submitted
from tunesmith.runs.events import read_events
from tunesmith.service.context import Context
from tunesmith.service.db.tables.jobs import JOBS
from tunesmith.service.dispatcher.ending import conclude, end_without_model, fail
from tunesmith.service.dispatcher.finishing import error_of
from tunesmith.service.dispatcher.following import obey, run_of_job, write_progress
from tunesmith.service.dispatcher.holding import LockLostError, Tended, hold, take_step, try_later
from tunesmith.service.dispatcher.inputs import bring_inputs
from tunesmith.service.dispatcher.keeping import keep, new_checkpoints, write_checkpoints
from tunesmith.service.dispatcher.reading import read_progress
from tunesmith.service.errors import ApiError
from tunesmith.service.fine_tuning.create import VALID, short_estimate
from tunesmith.service.fine_tuning.examine import Question, examine
from tunesmith.service.fine_tuning.places import run_of
from tunesmith.service.fine_tuning.schema import error_json
from tunesmith.service.fine_tuning.service import CANCELLED
from tunesmith.service.fine_tuning.states import Reason, State, Step, Wish, held_by
from tunesmith.service.fine_tuning.telling import say
from tunesmith.storage.run_store import JOB

_log = logging.getLogger(__name__)
_MOST_TRIES = 20


def tend(context: Context, tended: Tended) -> bool:
    """Look at a job and do what is due; whether it still wants this dispatcher.

    Raises:
        LockLostError: Another one works for it.
    """
    with context.database.read() as connection:
        query = select(JOBS).where(JOBS.c.id == tended.id, held_by(tended.lock))
        job = connection.execute(query).first()
    if job is None:
        raise LockLostError(tended.id)
    try:
        if job.state == State.VALIDATING:
            _validate(context, tended, job)
            return False
        if job.state in (State.QUEUED, State.PAUSED):
            _end_waiting(context, tended, job)
            return False
        return _follow(context, tended, job)
    except ApiError as error:
        detail = error.detail
        fail(context, tended, job, error_json(detail.code or "invalid", detail.message, detail.param))
    except TunesmithError as error:
        # A disk that is full now may have room later, and what was trained is not thrown away for it.
        passes = error.retryable or isinstance(error, OutputError)
        if passes and job.tries < _MOST_TRIES:
            _log.warning("job %s: %s; another try follows", job.id, "; ".join(error.lines()))
            try_later(context, tended, job)
        else:
            fail(context, tended, job, error_of(context, job.id, error))
    except (LockLostError, SQLAlchemyError):
        raise
    except Exception as error:
        # A job that nobody foresaw must not hold its place for ever.
        _log.exception("job %s could not be looked at", job.id)
        if job.tries < _MOST_TRIES:
            try_later(context, tended, job)
        else:
            fail(context, tended, job, error_json("internal_error", f"The service failed: {type(error).__name__}"))
    return False


def _validate(context: Context, tended: Tended, job: Row[Any]) -> None:
    """Look at files that were too large to be looked at while the client waited."""
    files = bring_inputs(context, job)
    if job.wish == Wish.CANCEL:
        step = Step((State.VALIDATING,), State.CANCELLED, Reason.CANCELLED_BY_USER, (CANCELLED,))
        end_without_model(context, tended, job, step)
        return
    question = Question(job.base, job.method["type"], job.recipe, job.hyperparameters)
    found = examine(context, question, files)
    values = {
        "hyperparameters": found.hyperparameters,
        "recipe": found.plain,
        "estimate": short_estimate(found),
        "tries": 0,
    }
    take_step(context, tended, Step((State.VALIDATING,), State.QUEUED, Reason.FILES_VALID, (VALID,), values))


def _end_waiting(context: Context, tended: Tended, job: Row[Any]) -> None:
    """End a job that was begun once and now waits or is paused."""
    if (run_of(context, job.id).path / JOB).is_file():
        submitted.cancel(submitted.find_job(context.settings.runs_folder, job.id))
    end_without_model(
        context,
        tended,
        job,
        Step((State.QUEUED, State.PAUSED), State.CANCELLED, Reason.CANCELLED_BY_USER, (CANCELLED,)),
    )


def _follow(context: Context, tended: Tended, job: Row[Any]) -> bool:
    run = run_of_job(context, tended, job)
    view = submitted.look(run)
    obey(job, view)
    view = submitted.look(run)
    progress = read_progress(read_events(run.run.events), after=job.told_seq, counted_step=job.counted_step)
    write_progress(context, tended, job, progress)
    steps = new_checkpoints(context, job, run, tended.tried)
    kept = keep(context, run, steps) if steps else {}
    tended.tried |= set(steps) - set(kept)
    if kept:
        with context.database.write() as connection:
            hold(connection, tended)
            for line in write_checkpoints(context, connection, job, run, kept):
                say(connection, job.id, line, context.now())
    return conclude(context, tended, job, view, progress)
