"""The table of tasks, and the choice of one for a data set."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tunesmith.errors import RecipeError
from tunesmith.formats.examples import Example
from tunesmith.formats.inspect import Inspection
from tunesmith.tasks import (
    chat,
    classification,
    creative,
    function_calling,
    math,
    ner,
    preference,
    qa,
    text,
    text_to_sql,
    translation,
)
from tunesmith.tasks.types import PreparedTask


@dataclass(frozen=True)
class TaskKind:
    """One task: the shapes of examples that it takes, and the function that fits it to a data set."""

    name: str
    shapes: tuple[str, ...]
    prepare: Callable[[Inspection, Sequence[Example]], PreparedTask]


TASKS: Mapping[str, TaskKind] = {
    kind.name: kind
    for kind in (
        TaskKind("text", ("text",), text.prepare),
        TaskKind("chat", ("chat", "prompt_completion"), chat.prepare),
        TaskKind("classification", ("text_label",), classification.prepare),
        TaskKind("ner", ("entities",), ner.prepare),
        TaskKind("translation", ("translation",), translation.prepare),
        TaskKind("qa", ("question_answer",), qa.prepare),
        TaskKind("creative", ("prompt_completion", "text"), creative.prepare),
        TaskKind("function_calling", ("function_calls", "chat"), function_calling.prepare),
        TaskKind("text_to_sql", ("text_to_sql", "question_answer", "prompt_completion", "text"), text_to_sql.prepare),
        TaskKind("preference", ("preference", "rated"), preference.prepare),
        TaskKind("math", ("question_answer", "prompt_completion"), math.prepare),
    )
}


def prepare_task(name: str, inspection: Inspection, sample: Sequence[Example]) -> PreparedTask:
    """Fit a task to a data set.

    Args:
        name: A task of :data:`TASKS`, or ``auto`` for the one that the data's shape means.
        inspection: Of the training data; its labels are the label set.
        sample: Some examples (some hundred are enough), from which the form and length of the answers are told.

    Raises:
        RecipeError: ``task.unknown``, ``task.unsupported`` (the data's shape has no task yet) or ``task.shape`` (the
            task does not take the data's shape).
    """
    wanted = inspection.task if name == "auto" else name
    kind = TASKS.get(wanted)
    if kind is None:
        raise _no_task(name, wanted, inspection)
    if inspection.shape not in kind.shapes:
        raise RecipeError(
            f"task {wanted} does not take rows of shape {inspection.shape}",
            code="task.shape",
            place="task",
            value=inspection.source,
            hint=(
                f"it takes {' or '.join(kind.shapes)}; set task to auto ({inspection.task}), "
                "or name the shape and columns under data"
            ),
        )
    return kind.prepare(inspection, sample)


def _no_task(name: str, wanted: str, inspection: Inspection) -> RecipeError:
    if name == "auto" or wanted == inspection.task:
        return RecipeError(
            f"rows of shape {inspection.shape} cannot be trained on in this version",
            code="task.unsupported",
            place="task",
            value=inspection.source,
            hint=f"tasks are {', '.join(TASKS)}; name the shape and columns under data to read the rows differently",
        )
    near = difflib.get_close_matches(wanted, TASKS, n=1)
    return RecipeError(
        "no such task",
        code="task.unknown",
        place="task",
        value=name,
        hint=f"did you mean {near[0]}?" if near else f"tasks are auto, {', '.join(TASKS)}",
    )
