"""What goes of a job: its inputs once it has ended, its run and what quotes its rows after their time or its project's.

Each machine removes what its own data folder has; what the storage has, any of them.
"""

from __future__ import annotations

import shutil

from tunesmith.jobs.registered_runs import forget_use, used_model
from tunesmith.runs.layout import remove_run
from tunesmith.service.context import Context
from tunesmith.service.fine_tuning.places import LOG, REPORTS, inputs_folder, left_at, run_of, stored_run
from tunesmith.service.shared.files import remove_below
from tunesmith.storage.run_store import INPUTS


def remove_inputs(context: Context, job_id: str) -> None:
    """Remove a job's training and validation rows, also those that its run took along to other machines.

    Raises:
        OutputError, NetworkError: The storage cannot be written.
    """
    remove_inputs_here(context, job_id)
    remove_below(context.storage, f"{stored_run(job_id)}/{INPUTS}")


def remove_inputs_here(context: Context, job_id: str) -> None:
    """Remove a job's rows from this machine; what cannot be removed now is tried again by the chore."""
    shutil.rmtree(inputs_folder(context, job_id), ignore_errors=True)


def remove_run_here(context: Context, job_id: str) -> None:
    """Remove a job's run from this machine, and its word that it uses the version on which it was trained.

    Raises:
        OutputError: A folder cannot be removed.
    """
    run = run_of(context, job_id)
    if run.recipe.is_file():
        model = used_model(run)
        if model is not None:
            # The recipe that names it goes first of the run.
            forget_use(run, model)
        remove_run(run)
    shutil.rmtree(run.path, ignore_errors=True)


def remove_left(context: Context, project_id: str, job_id: str) -> None:
    """Remove what a job's run has left in the storage: the run itself, reports and the log.

    Raises:
        OutputError, NetworkError: The storage cannot be written.
    """
    remove_below(context.storage, stored_run(job_id))
    for name in (*REPORTS.values(), LOG):
        context.storage.remove(left_at(project_id, job_id, name))
