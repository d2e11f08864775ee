"""What a technique without a formula trains: remembered, or counted once by a worker that builds the model."""

from __future__ import annotations

from collections.abc import Callable

from tunesmith.errors import ResourceError, WorkerError
from tunesmith.jobs import stages
from tunesmith.planner.counted import Question, remember, remembered
from tunesmith.planner.trained import Counted
from tunesmith.runs.events import Event

Count = Callable[[Question], Counted]


def counted(question: Question | None, count: Count) -> Counted | None:
    """What is known of a question, or what ``count`` finds; None where nothing has to be counted.

    A worker that fails by itself costs a plan its exact number and no more; then nothing is remembered.

    Raises:
        RecipeError, ModelError: Training would refuse technique or model as well.
    """
    if question is None:
        return None
    found = remembered(question)
    if found is not None:
        return found
    try:
        found = count(question)
    except (WorkerError, ResourceError) as error:
        return Counted(question.technique, None, f"counting failed ({error.message})")
    remember(question, found)
    return found


def count_quietly(question: Question) -> Counted:
    """Count by a worker whose events nobody sees; errors as of :func:`tunesmith.jobs.stages.count`."""

    def ignore(_event: Event) -> None:
        pass

    return stages.count(question, ignore)
