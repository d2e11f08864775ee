"""One look at a job by the dispatcher that holds its lock, and what follows from it.

Whatever is done outside of the database is done so that a second time finds the first: a run is named like its job,
submissions go by the job's id, versions by the run. So a dispatcher may be killed anywhere, and the next one goes on.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, select, update
from sqlalchemy.exc import SQLAlchemyError

from tunesmith.errors import OutputError, RunError, TunesmithError, WorkerError, from_json
from tunesmith.jobs import submitted
from tunesmith.jobs.submitted import Job, JobView
from tunesmith.jobs.submitting import Asked, submit
from tunesmith.runs.events import read_events
from tunesmith.service.context import Context
from tunesmith.service.db.tables.jobs import JOBS
from tunesmith.service.dispatcher import budgets
from tunesmith.service.dispatcher.finishing import error_of, keep_results, keep_writings, register_result
from tunesmith.service.dispatcher.inputs import bring_inputs, recipe_of
from tunesmith.service.dispatcher.keeping import keep, new_checkpoints, tuned_name, write_checkpoints, write_model
from tunesmith.service.dispatcher.reading import Progress, read_progress
from tunesmith.service.errors import ApiError
from tunesmith.service.fine_tuning.create import VALID, short_estimate
from tunesmith.service.fine_tuning.examine import Question, examine
from tunesmith.service.fine_tuning.places import run_of
from tunesmith.service.fine_tuning.schema import error_json
from tunesmith.service.fine_tuning.service import CANCELLED, PAUSED
from tunesmith.service.fine_tuning.states import Reason, State, Step, Wish, held_by, take
from tunesmith.service.fine_tuning.telling import Line, say
from tunesmith.service.shared.metering import count_use
from tunesmith.service.shared.telling import tell
from tunesmith.storage.run_store import JOB

_log = logging.getLogger(__name__)
_RETRY_SECONDS = 5.0
_MOST_TRIES = 20


class LockLostError(Exception):
    """Another dispatcher works for the job."""


@dataclass
class Tended:
    """A job that this dispatcher works for: its lock, and checkpoints that could not be kept."""

    id: str
    lock: str
    tried: set[int] = field(default_factory=set)


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
        _fail(context, tended, job, error_json(detail.code or "invalid", detail.message, detail.param))
    except TunesmithError as error:
        # A disk that is full now may have room later, and what was trained is not thrown away for it.
        passes = error.retryable or isinstance(error, OutputError)
        if passes and job.tries < _MOST_TRIES:
            _log.warning("job %s: %s; another try follows", job.id, "; ".join(error.lines()))
            _try_later(context, tended, job)
        else:
            _fail(context, tended, job, error_of(context, job.id, error))
    except (LockLostError, SQLAlchemyError):
        raise
    except Exception as error:
        # A job that nobody foresaw must not hold its place for ever.
        _log.exception("job %s could not be looked at", job.id)
        if job.tries < _MOST_TRIES:
            _try_later(context, tended, job)
        else:
            _fail(context, tended, job, error_json("internal_error", f"The service failed: {type(error).__name__}"))
    return False


def _validate(context: Context, tended: Tended, job: Row[Any]) -> None:
    """Look at files that were too large to be looked at while the client waited."""
    files = bring_inputs(context, job)
    if job.wish == Wish.CANCEL:
        _step(context, tended, Step((State.VALIDATING,), State.CANCELLED, Reason.CANCELLED_BY_USER, (CANCELLED,)))
        return
    question = Question(job.base, job.method["type"], job.recipe, job.hyperparameters)
    found = examine(context, question, files)
    values = {
        "hyperparameters": found.hyperparameters,
        "recipe": found.plain,
        "estimate": short_estimate(found),
        "tries": 0,
    }
    _step(context, tended, Step((State.VALIDATING,), State.QUEUED, Reason.FILES_VALID, (VALID,), values))


def _end_waiting(context: Context, tended: Tended, job: Row[Any]) -> None:
    """End a job that was begun once and now waits or is paused."""
    if (run_of(context, job.id).path / JOB).is_file():
        submitted.cancel(submitted.find_job(context.settings.runs_folder, job.id))
    _ended(
        context,
        tended,
        job,
        Step((State.QUEUED, State.PAUSED), State.CANCELLED, Reason.CANCELLED_BY_USER, (CANCELLED,)),
    )


def _follow(context: Context, tended: Tended, job: Row[Any]) -> bool:
    run = _submitted(context, tended, job)
    view = submitted.look(run)
    _obey(job, view)
    view = submitted.look(run)
    progress = read_progress(read_events(run.run.events), after=job.told_seq, counted_step=job.counted_step)
    _write_progress(context, tended, job, progress)
    steps = new_checkpoints(context, job, run, tended.tried)
    kept = keep(context, run, steps) if steps else {}
    tended.tried |= set(steps) - set(kept)
    if kept:
        with context.database.write() as connection:
            _hold(connection, tended)
            for line in write_checkpoints(context, connection, job, run, kept):
                say(connection, job.id, line, context.now())
    return _conclude(context, tended, job, view, progress)


def _submitted(context: Context, tended: Tended, job: Row[Any]) -> Job:
    """The job's run, after its submission was made sure."""
    runs = context.settings.runs_folder
    if job.run is None or not (run_of(context, job.id).path / JOB).is_file():
        folder = run_of(context, job.id).path
        if folder.is_dir() and not (folder / JOB).is_file():
            # The last dispatcher was killed before anybody could hear of this run.
            shutil.rmtree(folder)
        recipe = recipe_of(context, job, bring_inputs(context, job))
        storage = f"{context.settings.storage}/runs" if context.settings.shares_runs else None
        submit(recipe, runs, Asked(job.id, job.id, storage))
        with context.database.write() as connection:
            _hold(connection, tended, run=job.id, tries=0)
    elif submitted.find_job(runs, job.id).record["handle"] is None:
        # The last dispatcher was killed while it sent it.
        recipe = recipe_of(context, job, bring_inputs(context, job))
        submit(recipe, runs, Asked(job.id, job.id))
    return submitted.find_job(runs, job.id)


def _obey(job: Row[Any], view: JobView) -> None:
    """Tell the run what people want of it."""
    state = view.status.state
    try:
        if job.wish == Wish.CANCEL and state in ("queued", "running", "paused"):
            submitted.cancel(view.job)
        elif job.wish == Wish.PAUSE and state in ("queued", "running"):
            submitted.pause(view.job)
        elif job.wish == Wish.RUN and state == "paused":
            submitted.resume(view.job)
    except RunError as error:
        # It has gone on since it was looked at; the next look shows where.
        _log.info("job %s: %s", job.id, error.message)


def _write_progress(context: Context, tended: Tended, job: Row[Any], progress: Progress) -> None:
    if progress.seq == job.told_seq:
        return
    now = context.now()
    left = progress.seconds_left
    values: dict[str, Any] = {
        "told_seq": progress.seq,
        "tries": 0,
        "counted_step": progress.counted_step,
        "trained_tokens": (job.trained_tokens or 0) + progress.tokens,
        "estimated_finish": None if left is None else now + left,
    }
    if progress.total_steps and job.hyperparameters.get("batch_size") == "auto":
        values["hyperparameters"] = _resolved(job, progress.total_steps)
    with context.database.write() as connection:
        _hold(connection, tended, **values)
        for line in progress.lines:
            say(connection, job.id, line, now)
        if progress.tokens:
            used = {"trained_tokens": progress.tokens}
            count_use(context, connection, job.project_id, job.base, used)  # type: ignore[arg-type]
        budgets.keep_to(context, connection, job)


def _resolved(job: Row[Any], total_steps: int) -> dict[str, Any]:
    """Hyperparameters with the rows of a step as the run has chosen them."""
    numbers, expected = dict(job.hyperparameters), job.estimate or {}
    epochs, rows = numbers["n_epochs"], expected.get("rows")
    if rows and epochs != "auto":
        numbers["batch_size"] = max(1, min(256, round(rows * epochs / total_steps)))
    return numbers


def _conclude(context: Context, tended: Tended, job: Row[Any], view: JobView, progress: Progress) -> bool:
    """Take the step that the run's end means; whether the job goes on."""
    state = view.status.state
    if state in ("queued", "running"):
        return True
    if state == "succeeded":
        _succeed(context, tended, job, view.job)
    elif state == "cancelled":
        reason = _reason(context, job, Reason.CANCELLED_BY_BUDGET, Reason.CANCELLED_BY_USER)
        values = {"error": budgets.error_of_budget(reason)}
        _ended(context, tended, job, Step((State.RUNNING,), State.CANCELLED, reason, (CANCELLED,), values))
    elif state == "paused":
        return _rest(context, tended, job)
    else:
        error = _error(view, progress)
        reason = Reason.RUN_LOST if state == "lost" else Reason.WORKER_FAILED
        _fail(context, tended, job, error_of(context, job.id, error), reason)
    return False


def _rest(context: Context, tended: Tended, job: Row[Any]) -> bool:
    with context.database.read() as connection:
        wish = connection.execute(select(JOBS.c.wish).where(JOBS.c.id == job.id)).scalar_one()
    if wish != Wish.PAUSE:
        # It is to go on, or to end: the next look sees to that.
        return True
    reason = _reason(context, job, Reason.PAUSED_BY_BUDGET, Reason.PAUSED_BY_USER)
    values = {"estimated_finish": None, "error": budgets.error_of_budget(reason)}
    _step(context, tended, Step((State.RUNNING,), State.PAUSED, reason, (PAUSED,), values))
    return False


def _reason(context: Context, job: Row[Any], by_budget: Reason, by_user: Reason) -> Reason:
    """Why a job was paused or cancelled: its budget writes that down with the wish, people do not."""
    with context.database.read() as connection:
        reason = connection.execute(select(JOBS.c.reason).where(JOBS.c.id == job.id)).scalar_one()
    return by_budget if reason == by_budget else by_user


def _succeed(context: Context, tended: Tended, job: Row[Any], run: Job) -> None:
    version = register_result(context, run)
    result = keep_results(context, job, run.run)
    keep_writings(context, job, run.run)
    name = tuned_name(context, job)
    lines = (
        Line(f"New fine-tuned model created: {name}", source="model"),
        Line("The job has successfully completed", source="done"),
    )
    values = {"fine_tuned_model": name, "result_files": [result]}
    step = Step((State.RUNNING,), State.SUCCEEDED, Reason.FINISHED, lines, values)
    with context.database.write() as connection:
        if not take(connection, job.id, step, context.now(), lock=tended.lock):
            raise LockLostError(job.id)
        write_model(context, connection, job, name, f"{version.name}:{version.number}")
        tell(context, connection, job.project_id, "fine_tuning.job.succeeded", {"id": job.id})


def _error(view: JobView, progress: Progress) -> TunesmithError:
    if progress.error is not None:
        return from_json(dict(progress.error))
    status = view.status
    return WorkerError(
        "the worker ended without a word", code="worker.ended", value=status.reason or status.words or None
    )


def _fail(context: Context, tended: Tended, job: Row[Any], error: dict[str, Any], reason: Reason | None = None) -> None:
    if reason is None:
        reason = Reason.FILES_INVALID if job.state == State.VALIDATING else Reason.NOT_SUBMITTED
    line = Line(f"The job failed due to an error: {error['message']}", level="error")
    step = Step((State(job.state),), State.FAILED, reason, (line,), {"error": error})
    _ended(context, tended, job, step)


def _ended(context: Context, tended: Tended, job: Row[Any], step: Step) -> None:
    """A job ends without a model; what its run has written is kept as far as the storage allows."""
    run = run_of(context, job.id)
    if run.path.is_dir():
        try:
            keep_writings(context, job, run)
        except TunesmithError:
            _log.exception("job %s: its log cannot be kept", job.id)
    _step(context, tended, step)


def _step(context: Context, tended: Tended, step: Step) -> None:
    with context.database.write() as connection:
        if not take(connection, tended.id, step, context.now(), lock=tended.lock):
            raise LockLostError(tended.id)
        told = f"fine_tuning.job.{step.target}"
        if step.target in (State.FAILED, State.CANCELLED, State.PAUSED):
            query = select(JOBS.c.project_id).where(JOBS.c.id == tended.id)
            tell(context, connection, connection.execute(query).scalar_one(), told, {"id": tended.id})


def _try_later(context: Context, tended: Tended, job: Row[Any]) -> None:
    """Let go of a job for a while, since something did not work; its state stays."""
    wait = _RETRY_SECONDS * min(12, job.tries + 1)
    with context.database.write() as connection:
        _hold(
            connection,
            tended,
            tries=job.tries + 1,
            look_at=context.now() + wait,
            lock_token=None,
            lock_expires_at=None,
        )


def _hold(connection: Connection, tended: Tended, **values: Any) -> None:
    """Write columns of a job whose lock is held; takes the row, so that what is written after it is this holder's.

    Raises:
        LockLostError: Another one works for it.
    """
    if not values:
        values = {"lock_token": tended.lock}
    changed = connection.execute(update(JOBS).where(JOBS.c.id == tended.id, held_by(tended.lock)).values(**values))
    if changed.rowcount != 1:
        raise LockLostError(tended.id)
