"""What a run is doing now, told from its lease, its events and its manifest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from tunesmith.executors.local.worker import is_launched
from tunesmith.runs.atomic import read_json
from tunesmith.runs.events import Event, read_events
from tunesmith.runs.layout import RunFolder
from tunesmith.runs.lease import is_held
from tunesmith.storage.run_store import JOB

State = Literal["new", "running", "paused", "cancelled", "failed", "died", "finished"]

RESUMABLE: frozenset[State] = frozenset({"new", "paused", "failed", "died"})

_ENDED: dict[str, State] = {
    "finished": "finished",
    "stopped": "paused",
    "cancelled": "cancelled",
    "failed": "failed",
}


@dataclass(frozen=True)
class RunStatus:
    """A run at one moment.

    Attributes:
        state: ``new`` (no worker yet), ``running`` (a living worker owns it), ``paused``, ``cancelled``, ``failed``
            (it said why), ``died`` (it ended without a word), ``finished``.
        stage: The last state that the worker told, such as ``training``.
        step: The last optimizer step, 0 before the first.
        total_steps: How many there will be, None before the first.
        seconds_left: What the last step event expected, while the run trains.
        loss: Loss of the last step.
        error: The last error as plain data, of a run that failed.
        last_event: Time of the last event in UTC, None before the first.
    """

    state: State
    stage: str = "created"
    step: int = 0
    total_steps: int | None = None
    seconds_left: float | None = None
    loss: float | None = None
    error: dict[str, Any] | None = None
    last_event: str | None = None
    warnings: tuple[str, ...] = field(default=())

    @property
    def words(self) -> str:
        """The state in a word or two, for a table."""
        return f"running ({self.stage.replace('_', ' ')})" if self.state == "running" else self.state

    def to_json(self) -> dict[str, Any]:
        """The status as plain data."""
        return {
            "state": self.state,
            "stage": self.stage,
            "step": self.step,
            "total_steps": self.total_steps,
            "seconds_left": self.seconds_left if self.state == "running" else None,
            "loss": self.loss,
            "error": self.error,
            "last_event": self.last_event,
            "warnings": list(self.warnings),
        }


def is_alive(run: RunFolder) -> bool:
    """Whether a living worker owns the run, or is about to."""
    return is_held(run.lease) or is_launched(run.path)


def run_status(run: RunFolder) -> RunStatus:
    """Look at a run; touches nothing."""
    alive = is_alive(run)
    events = list(read_events(run.events))
    stage = _last(events, "status", "state", "created")
    step = next((event for event in reversed(events) if event.type == "step"), None)
    error = next((event for event in reversed(events) if event.type == "error"), None)
    state: State = "running" if alive else _ended_state(run, events, str(stage))
    return RunStatus(
        state=state,
        stage=str(stage),
        step=(step.step or 0) if step else 0,
        total_steps=step.data.get("total_steps") if step else None,
        seconds_left=step.data.get("eta_seconds") if step else None,
        loss=step.data.get("loss") if step else None,
        error=error.data if error and state == "failed" else None,
        last_event=events[-1].time if events else None,
        warnings=tuple(str(event.data.get("message", "")) for event in events if event.type == "warning"),
    )


def _ended_state(run: RunFolder, events: list[Event], stage: str) -> State:
    if not events:
        return "died" if run.log.exists() else "new"
    if stage in _ENDED:
        return _ENDED[stage]
    if events[-1].type == "error":
        return "failed"
    return "running" if _is_elsewhere(run) else "died"


def _is_elsewhere(run: RunFolder) -> bool:
    """Whether the run was given to an executor whose worker has no lease on this machine; `jobs` knows how it is."""
    if not (run.path / JOB).is_file():
        return False
    job = read_json(run.path / JOB)
    return job.get("handle") is not None and job.get("executor", {}).get("name") != "local"


def _last(events: list[Event], type_: str, key: str, default: Any) -> Any:
    return next((event.data[key] for event in reversed(events) if event.type == type_ and key in event.data), default)
