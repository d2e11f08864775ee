"""A job's run: sent out once, told what people wish, and read along."""

from __future__ import annotations

import logging
import shutil
from typing import Any

from sqlalchemy import Row

from tunesmith.errors import RunError
from tunesmith.jobs import submitted
from tunesmith.jobs.submitted import Job, JobView
from tunesmith.jobs.submitting import Asked, run_url, send, submit
from tunesmith.jobs.taking_up import take_up
from tunesmith.service.context import Context
from tunesmith.service.dispatcher import budgets
from tunesmith.service.dispatcher.holding import Tended, hold
from tunesmith.service.dispatcher.inputs import bring_inputs, recipe_of, settle_inputs
from tunesmith.service.dispatcher.reading import Progress
from tunesmith.service.fine_tuning.places import run_of
from tunesmith.service.fine_tuning.states import Wish
from tunesmith.service.fine_tuning.telling import say
from tunesmith.service.shared.metering import count_use
from tunesmith.storage.run_store import JOB

_log = logging.getLogger(__name__)
# What the contract allows of each.
_MOST_EPOCHS, _MOST_ROWS = 50, 256


def run_of_job(context: Context, tended: Tended, job: Row[Any]) -> Job:
    """The job's run, after its submission was made sure."""
    runs, folder = context.settings.runs_folder, run_of(context, job.id).path
    if folder.is_dir() and not (folder / JOB).is_file():
        # The last dispatcher was killed before anybody could hear of this run.
        shutil.rmtree(folder)
    storage = f"{context.settings.storage}/runs" if context.settings.shares_runs else None
    if not tended.is_taken_up:
        if storage is not None:
            # Another machine may have sent it, or have sent it again since this one looked last.
            take_up(runs, job.id, run_url(storage, job.id))
        elif (folder / JOB).is_file():
            settle_inputs(context, job, run_of(context, job.id))
        tended.is_taken_up = True
    if not (folder / JOB).is_file():
        recipe = recipe_of(context, job, bring_inputs(context, job))
        submit(recipe, runs, Asked(job.id, job.id, storage))
    elif submitted.find_job(runs, job.id).record["handle"] is None:
        # The last dispatcher was killed while it sent it.
        bring_inputs(context, job)
        send(submitted.find_job(runs, job.id).run)
    if job.run is None:
        with context.database.write() as connection:
            hold(connection, tended, run=job.id, tries=0)
    return submitted.find_job(runs, job.id)


def obey(job: Row[Any], view: JobView) -> None:
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


def write_progress(context: Context, tended: Tended, job: Row[Any], progress: Progress) -> None:
    """Write down what a run has told since the last look, and tell it on."""
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
        "hyperparameters": _as_chosen(job, progress),
    }
    with context.database.write() as connection:
        hold(connection, tended, **values)
        for line in progress.lines:
            say(connection, job.id, line, now)
        if progress.tokens:
            used = {"trained_tokens": progress.tokens}
            count_use(context, connection, job.project_id, job.base, used)  # type: ignore[arg-type]
        budgets.keep_to(context, connection, job)


def _as_chosen(job: Row[Any], progress: Progress) -> dict[str, Any]:
    """Hyperparameters, those that were left to the run as it has chosen them; ``auto`` until it has.

    They are whole numbers within the contract's bounds: a budget that ends within the first epoch is one epoch.
    """
    numbers, train, expected = dict(job.hyperparameters), job.recipe["train"], job.estimate or {}
    epochs, rows_per_step = progress.epochs, progress.rows_per_step
    if progress.total_steps:
        # Platforms with a trainer of their own tell their steps and no more.
        epochs = epochs or train.get("epochs", expected.get("epochs"))
        if epochs and "rows" in expected:
            rows_per_step = rows_per_step or expected["rows"] * epochs / progress.total_steps
    if "epochs" not in train and epochs:
        numbers["n_epochs"] = max(1, min(_MOST_EPOCHS, round(epochs)))
    if "rows_per_step" not in train and rows_per_step:
        numbers["batch_size"] = max(1, min(_MOST_ROWS, round(rows_per_step)))
    return numbers
