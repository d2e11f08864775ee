"""What every executor does, and what only some of them can do.

An executor starts a worker somewhere (``python -m tunesmith.worker RUN``), or a service that trains with a trainer of
its own. It knows nothing of run folders: it gets a :class:`Submission`, gives back a handle of plain data that is kept
in the run's job.json, and is asked by that handle from then on, by whatever process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from tunesmith.recipe.schema import Recipe

JobState = Literal["queued", "running", "paused", "succeeded", "failed", "cancelled", "lost"]
ENDED: frozenset[JobState] = frozenset({"succeeded", "failed", "cancelled", "lost"})

# Plain data that an executor finds its job by again; no secret is in it.
Handle = Mapping[str, Any]


@dataclass(frozen=True)
class Submission:
    """One run to be done.

    Attributes:
        name: The run's name; letters, digits, ``.``, ``_`` and ``-``.
        key: Submissions of one key are one job, however often they are sent.
        run: What the worker gets: a folder, or the address of a run in a store. Empty for services that train by
            themselves.
        recipe: What is asked for; data are files below ``inputs/`` of the run, or ids of a hub.
        inputs: The files that the recipe names, by their path within the run, as they lie on this machine.
        devices: Processes or GPUs on each machine.
        nodes: Machines.
        environment: Variables of the worker, none of them secret.
    """

    name: str
    key: str
    run: str
    recipe: Recipe
    inputs: Mapping[str, Path] = field(default_factory=dict)
    devices: int = 1
    nodes: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class JobStatus:
    """A job as its executor sees it: its state, the platform's own words, and why it failed."""

    state: JobState
    words: str = ""
    reason: str | None = None


@dataclass(frozen=True)
class Told:
    """What a service said of a job that it does with a trainer of its own; it becomes an event of the run."""

    type: Literal["status", "step", "evaluation", "checkpoint", "artifact", "warning", "error"]
    data: Mapping[str, Any]
    step: int | None = None


class Executor(Protocol):
    """Where a run takes place."""

    def submit(self, submission: Submission) -> Handle:
        """Start the job, or find the one that was started under the same key.

        Raises:
            TunesmithError: The platform refuses it, or does not answer.
        """

    def status(self, handle: Handle) -> JobStatus:
        """How the job is; ``lost`` where the platform knows nothing of it."""

    def logs(self, handle: Handle) -> Iterator[str]:
        """The lines that the job has printed so far."""

    def cancel(self, handle: Handle) -> None:
        """End the job for good; one that has ended stays as it is."""


@runtime_checkable
class Renders(Protocol):
    """Can write what it would submit."""

    def render(self, submission: Submission) -> Mapping[str, str]:
        """The files, by name."""


@runtime_checkable
class Pauses(Protocol):
    """Can pause by means of the platform; all others are asked through the run's control.json and submitted again."""

    def pause(self, handle: Handle) -> None:
        """Ask the platform to pause the job."""

    def resume(self, handle: Handle) -> None:
        """Ask the platform to go on."""


@runtime_checkable
class Tells(Protocol):
    """Trains with a trainer of its own, so that what happens is read from the platform and not from events.jsonl."""

    def tell(self, handle: Handle, cursor: str | None) -> tuple[Sequence[Told], str | None]:
        """What has happened since a cursor of an earlier call, oldest first, and the next cursor."""

    def fetch(self, handle: Handle, folder: Path) -> Sequence[Path]:
        """Bring the result's files into a folder; what could not be had is not in the list."""
