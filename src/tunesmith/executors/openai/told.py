"""What a service with OpenAI's contract says of a job, in the words of our events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from tunesmith.errors import DataError, WorkerError
from tunesmith.executors.openai.client import without_keys
from tunesmith.executors.protocol import JobState, JobStatus, Told

# `paused`, `pausing` and `resuming` are in no list of the contract, and are sent all the same.
_STATES: Mapping[str, JobState] = {
    "validating_files": "queued",
    "queued": "queued",
    "running": "running",
    "pausing": "running",
    "resuming": "running",
    "paused": "paused",
    "succeeded": "succeeded",
    "failed": "failed",
    "cancelled": "cancelled",
}
_STAGES: Mapping[str, tuple[str, str]] = {
    "validating_files": ("preparing", "the service reads the files"),
    "queued": ("preparing", "queued at the service"),
    "running": ("training", "at the service"),
    "resuming": ("training", "at the service"),
    "paused": ("stopped", "paused at the service"),
    "succeeded": ("finished", ""),
    "failed": ("failed", ""),
    "cancelled": ("cancelled", ""),
}
OVER = frozenset({"succeeded", "failed", "cancelled"})
# Metrics by the names that they have at the service and here.
_STEP_VALUES = {"train_loss": "loss", "train_mean_token_accuracy": "token_accuracy", "total_steps": "total_steps"}
_LOSSES = (("full_valid_loss", "full_valid_mean_token_accuracy"), ("valid_loss", "valid_mean_token_accuracy"))


@dataclass(frozen=True)
class Cursor:
    """What was told so far: the newest event and when it was, the newest checkpoint's step, the job's state."""

    event: str | None = None
    time: int = 0
    checkpoint_step: int = -1
    state: str | None = None

    @classmethod
    def read(cls, text: str | None) -> Cursor:
        """A cursor from its text."""
        return cls() if text is None else cls(**orjson.loads(text))

    def write(self) -> str:
        """Its text."""
        return orjson.dumps(self).decode()


def status_of(job: Any) -> JobStatus:
    """A job's state; one that is not known yet counts as running."""
    error = job.error
    reason = without_keys(str(error.message)) if job.status == "failed" and error is not None else None
    return JobStatus(_STATES.get(job.status, "running"), str(job.status).replace("_", " "), reason or None)


def new_events(client: Any, job_id: str, cursor: Cursor) -> list[Any]:
    """The events since a cursor, oldest first; pages come newest first."""
    found = []
    for event in client.fine_tuning.jobs.list_events(job_id, limit=100):
        # The time counts where the service has let go of the event that was seen last.
        if event.id == cursor.event or event.created_at < cursor.time:
            break
        found.append(event)
    return found[::-1]


def new_checkpoints(client: Any, job_id: str, cursor: Cursor) -> list[Any]:
    """The checkpoints since a cursor, oldest first."""
    found = client.fine_tuning.jobs.checkpoints.list(job_id, limit=100)
    return sorted(
        (one for one in found if one.step_number > cursor.checkpoint_step), key=lambda one: int(one.step_number)
    )


def told_of(job: Any, events: Sequence[Any], checkpoints: Sequence[Any], before: str | None) -> list[Told]:
    """Events of ours, oldest first; the end of the job is the last of them.

    Args:
        job: The job as the service has it now.
        events: What is new, oldest first.
        checkpoints: Likewise.
        before: The job's state when it was looked at last.
    """
    told: list[Told] = []
    stage = _STAGES.get(job.status)
    steps = any(event.type == "metrics" for event in events)
    if job.status not in OVER and stage is not None and job.status != before:
        told.append(_status(*stage))
    elif steps and before not in ("running", "resuming", "pausing"):
        # It went on and ended while nobody looked.
        told.append(_status(*_STAGES["running"]))
    at_step = [*(one for event in events for one in _event(event)), *map(_checkpoint, checkpoints)]
    told += sorted(at_step, key=lambda one: one.step or 0) if checkpoints else at_step
    if job.status in OVER and job.status != before:
        told += _end(job)
    return told


def next_cursor(job: Any, events: Sequence[Any], checkpoints: Sequence[Any], cursor: Cursor) -> Cursor:
    """The cursor after these were told."""
    return Cursor(
        events[-1].id if events else cursor.event,
        int(events[-1].created_at) if events else cursor.time,
        int(checkpoints[-1].step_number) if checkpoints else cursor.checkpoint_step,
        job.status,
    )


def line_of(event: Any) -> str:
    """An event as a line of a log."""
    time = datetime.fromtimestamp(event.created_at, UTC).strftime("%Y-%m-%d %H:%M:%S")
    level = "" if event.level == "info" else f"{event.level}: "
    return f"{time} {level}{without_keys(str(event.message))}"


def _event(event: Any) -> Iterator[Told]:
    if event.type == "metrics" and isinstance(event.data, Mapping):
        yield from _metrics(event.data)
    elif event.level in ("warn", "error"):
        # An error that ends the job is told by the job itself.
        yield Told("warning", {"code": f"openai.{event.level}", "message": without_keys(str(event.message))})


def _metrics(data: Mapping[str, Any]) -> Iterator[Told]:
    step = _whole(data.get("step"))
    if step is None:
        return
    values = {ours: data[theirs] for theirs, ours in _STEP_VALUES.items() if data.get(theirs) is not None}
    if "loss" in values:
        yield Told("step", values, step)
    for loss, accuracy in _LOSSES:
        if data.get(loss) is not None:
            told = {"loss": data[loss], "token_accuracy": data.get(accuracy)}
            yield Told("evaluation", {name: value for name, value in told.items() if value is not None}, step)
            break


def _checkpoint(checkpoint: Any) -> Told:
    return Told("checkpoint", {"name": checkpoint.fine_tuned_model_checkpoint}, int(checkpoint.step_number))


def _end(job: Any) -> Iterator[Told]:
    if job.status == "succeeded" and job.fine_tuned_model:
        yield Told("artifact", {"kind": "service_model", "name": job.fine_tuned_model})
    yield _status(*_STAGES[job.status])
    if job.status == "failed":
        yield Told("error", _failure(job).to_json())


def _failure(job: Any) -> DataError | WorkerError:
    error = job.error
    code = f"openai.{getattr(error, 'code', None) or 'failed'}"
    message = without_keys(str(getattr(error, "message", None) or "it did not say why"))
    parameter = getattr(error, "param", None)
    kind = DataError if parameter in ("training_file", "validation_file") else WorkerError
    return kind("the service ended the job", code=code, place=parameter, value=message)


def _status(state: str, detail: str) -> Told:
    return Told("status", {"state": state, **({"detail": detail} if detail else {})})


def _whole(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
