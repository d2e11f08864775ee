"""What may be done with a run that exists: start, pause, cancel, resume, remove."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.errors import DataError, ModelError, RecipeError, RunError, SupervisionError, TunesmithError, UsageError
from tunesmith.executors.local.worker import LAUNCH, LocalWorker, start_worker
from tunesmith.jobs.registered_runs import complete_versions, forget_use, used_model
from tunesmith.jobs.states import RESUMABLE, is_alive, run_status
from tunesmith.runs.atomic import write_json
from tunesmith.runs.control import write_wish
from tunesmith.runs.events import read_events
from tunesmith.runs.layout import NAME_PATTERN, RunFolder, find_run, remove_run

_BAD_INPUT = (UsageError, RecipeError, DataError, SupervisionError, ModelError)
# What this machine lacks is told before anything is measured, as bad input is.
_TOO_LARGE = ("resource.plan", "resource.devices")


def start(run: RunFolder, command: Sequence[str] | None = None) -> LocalWorker:
    """Start a worker that trains a run, from its last checkpoint where it has one.

    Raises:
        OutputError: The run folder cannot be written.
    """
    # A wish from an earlier attempt would stop this one at its first step.
    write_wish(run.control, "continue")
    return start_worker(run.path, stage="train", command=command)


def resume(
    run: RunFolder, command: Sequence[str] | None = None, *, shared: Mapping[str, Any] | None = None
) -> LocalWorker | None:
    """Start a worker for a run that stopped; None where a living worker owns it already.

    ``shared`` says how the work is shared from now on, where that is to change: `strategy`, `train.devices`,
    `train.nodes`, `train.offload`.

    Raises:
        RunError: The run is finished or was cancelled, or runs and should be shared in another way.
    """
    status = run_status(run)
    if status.state == "running":
        if shared:
            raise RunError(
                "the run is at work, and cannot be shared in another way meanwhile",
                code="run.running",
                place=run.name,
                hint=f"pause it first: tunesmith runs pause {run.name}",
            )
        return None
    if status.state not in RESUMABLE:
        raise RunError(
            f"the run is {status.state}, there is nothing to resume",
            code=f"run.{status.state}",
            place=run.name,
            hint=f"look at it with `tunesmith runs show {run.name}`, or train again under another name",
        )
    if shared:
        write_json(run.resume, dict(shared))
    return start(run, command)


def pause(run: RunFolder) -> None:
    """Ask a running worker to save a checkpoint and stop.

    Raises:
        RunError: No worker is running.
    """
    _require_alive(run)
    write_wish(run.control, "pause")


def cancel(run: RunFolder) -> None:
    """Ask a running worker to stop for good; errors as in :func:`pause`."""
    _require_alive(run)
    write_wish(run.control, "cancel")


def remove(run: RunFolder) -> None:
    """Delete a run; versions that were registered of it get what they need first.

    Raises:
        RunError: A living worker owns it.
        OutputError: Something could not be deleted.
        TunesmithError: A registry that waits for the run's result cannot be written; nothing was deleted.
    """
    require_idle(run)
    complete_versions(run)
    _remove(run)


def require_idle(run: RunFolder) -> None:
    """Raise a RunError (``run.leased``) where a living worker owns the run."""
    if is_alive(run):
        raise RunError(
            "a living worker owns this run",
            code="run.leased",
            place=run.name,
            hint=f"stop it first with `tunesmith runs cancel {run.name}`",
        )


def find_removable(runs_folder: Path, name: str) -> RunFolder:
    """A run by name or path, also one whose removal broke off and which therefore no longer counts as a run.

    Raises:
        RunError: There is no such run.
    """
    rest = runs_folder / name
    if NAME_PATTERN.fullmatch(name) and not (rest / "recipe.yaml").exists() and (rest / LAUNCH).exists():
        return RunFolder(rest.resolve())
    return find_run(runs_folder, name)


def discard_if_refused(run: RunFolder, error: TunesmithError) -> bool:
    """Remove a run whose input was refused before anything was trained, so that its name is free again.

    Returns:
        Whether it was removed; a run with a step or a checkpoint is kept, and so is one that failed by itself.
    """
    refused = isinstance(error, _BAD_INPUT) or error.code in _TOO_LARGE
    if not refused or run.checkpoints.exists() or is_alive(run):
        return False
    if any(event.type in ("step", "checkpoint") for event in read_events(run.events)):
        return False
    _remove(run)
    return True


def _remove(run: RunFolder) -> None:
    model = used_model(run)
    remove_run(run)
    if model is not None:
        forget_use(run, model)


def _require_alive(run: RunFolder) -> None:
    if not is_alive(run):
        raise RunError("no worker is running this run", code="run.not_running", place=run.name)
