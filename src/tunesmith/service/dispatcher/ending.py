"""How a job ends or comes to rest, by what became of its run."""

from __future__ import annotations

import logging
from typing import Any

from sqlalchemy import Row, select

from tunesmith.errors import TunesmithError, WorkerError, from_json
from tunesmith.jobs.submitted import Job, JobView
from tunesmith.service.context import Context
from tunesmith.service.db.tables.jobs import JOBS
from tunesmith.service.dispatcher import budgets
from tunesmith.service.dispatcher.finishing import error_of, keep_results, keep_writings, register_result
from tunesmith.service.dispatcher.holding import LockLostError, Tended, take_step
from tunesmith.service.dispatcher.keeping import tuned_name, write_model
from tunesmith.service.dispatcher.reading import Progress
from tunesmith.service.fine_tuning.places import run_of
from tunesmith.service.fine_tuning.removing import remove_inputs
from tunesmith.service.fine_tuning.service import CANCELLED, PAUSED
from tunesmith.service.fine_tuning.states import Reason, State, Step, Wish, take
from tunesmith.service.fine_tuning.telling import Line
from tunesmith.service.shared.telling import tell

_log = logging.getLogger(__name__)


def conclude(context: Context, tended: Tended, job: Row[Any], view: JobView, progress: Progress) -> bool:
    """Take the step that the run's end means; whether the job goes on."""
    state = view.status.state
    if state in ("queued", "running"):
        return True
    if state == "succeeded":
        _succeed(context, tended, job, view.job)
    elif state == "cancelled":
        reason = _reason(context, job, Reason.CANCELLED_BY_BUDGET, Reason.CANCELLED_BY_USER)
        values = {"error": budgets.error_of_budget(reason)}
        end_without_model(context, tended, job, Step((State.RUNNING,), State.CANCELLED, reason, (CANCELLED,), values))
    elif state == "paused":
        return _rest(context, tended, job)
    else:
        error = _error(view, progress)
        reason = Reason.RUN_LOST if state == "lost" else Reason.WORKER_FAILED
        fail(context, tended, job, error_of(context, job.id, error), reason)
    return False


def _rest(context: Context, tended: Tended, job: Row[Any]) -> bool:
    with context.database.read() as connection:
        wish = connection.execute(select(JOBS.c.wish).where(JOBS.c.id == job.id)).scalar_one()
    if wish != Wish.PAUSE:
        # It is to go on, or to end: the next look sees to that.
        return True
    reason = _reason(context, job, Reason.PAUSED_BY_BUDGET, Reason.PAUSED_BY_USER)
    values = {"estimated_finish": None, "error": budgets.error_of_budget(reason)}
    take_step(context, tended, Step((State.RUNNING,), State.PAUSED, reason, (PAUSED,), values))
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
    _drop_inputs(context, job)


def _error(view: JobView, progress: Progress) -> TunesmithError:
    if progress.error is not None:
        return from_json(dict(progress.error))
    status = view.status
    return WorkerError(
        "the worker ended without a word", code="worker.ended", value=status.reason or status.words or None
    )


def fail(context: Context, tended: Tended, job: Row[Any], error: dict[str, Any], reason: Reason | None = None) -> None:
    """End a job that failed; without a reason, where it stood says which it is."""
    if reason is None:
        reason = Reason.FILES_INVALID if job.state == State.VALIDATING else Reason.NOT_SUBMITTED
    line = Line(f"The job failed due to an error: {error['message']}", level="error")
    step = Step((State(job.state),), State.FAILED, reason, (line,), {"error": error})
    end_without_model(context, tended, job, step)


def end_without_model(context: Context, tended: Tended, job: Row[Any], step: Step) -> None:
    """A job ends without a model; what its run has written is kept as far as the storage allows, and its rows go."""
    run = run_of(context, job.id)
    if run.path.is_dir():
        try:
            keep_writings(context, job, run)
        except TunesmithError:
            _log.exception("job %s: its log cannot be kept", job.id)
    take_step(context, tended, step)
    _drop_inputs(context, job)


def _drop_inputs(context: Context, job: Row[Any]) -> None:
    """Remove the rows of a job that has ended for good: before, another dispatcher may be at it and need them."""
    try:
        remove_inputs(context, job.id)
    except TunesmithError:
        # A chore tries again.
        _log.exception("job %s: its inputs cannot be removed from the storage", job.id)
