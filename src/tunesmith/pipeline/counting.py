"""Count what a technique trains, in the model as it is built without weights: plans of methods without a formula ask.

The technique is put on the model by the code that training calls. Some methods of the library cannot begin so: they
sort, cluster or invert the weights first. For them there is no number, and the answer says why.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from pydantic import TypeAdapter

from tunesmith.catalog.heads import Head, HeadKind
from tunesmith.errors import ModelError
from tunesmith.models.build import empty_model
from tunesmith.planner.counted import Question
from tunesmith.planner.trained import Counted
from tunesmith.recipe.objectives import HEADS
from tunesmith.recipe.techniques import Technique
from tunesmith.runs.atomic import read_json, write_json
from tunesmith.runs.events import EventWriter
from tunesmith.techniques.table import make_technique

# What the library refuses of a model without weights, it may accept of one with weights.
_OF_THE_LIBRARY = "model.adapter"


def count_trained(question: Question) -> Counted:
    """Count.

    Raises:
        RecipeError, ModelError: Training would refuse technique or model as well, and tell the same.
    """
    try:
        technique = make_technique(question.technique)
        model = technique.prepare(empty_model(question.config, _head(question)), seed=0)
    except ModelError as error:
        if error.code != _OF_THE_LIBRARY:
            raise
        return Counted(question.technique, None, _why(error.value))
    except (RuntimeError, IndexError) as error:
        # Whatever a method does with numbers that are not there.
        return Counted(question.technique, None, _why(str(error)))
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return Counted(question.technique, trained)


def run_count(folder: Path, events: EventWriter) -> None:
    """Count what ``request.json`` asks, and write ``counted.json``.

    Raises:
        RecipeError, ModelError: As :func:`count_trained`.
        OutputError: The folder cannot be written.
    """
    request: dict[str, Any] = read_json(folder / "request.json")
    spec = TypeAdapter(Technique).validate_python(request["technique"])
    events.emit("status", None, state="counting", detail=spec.name)
    found = count_trained(Question(request["config"], spec, request["objective"], request["classes"]))
    write_json(folder / "counted.json", {"trained": found.trained, "why": found.why})
    events.emit("status", None, state="finished")


def _head(question: Question) -> Head | None:
    """The head of the objective, with as many labels; what they are called changes no number."""
    if question.objective not in HEADS:
        return None
    labels = tuple(str(number) for number in range(question.classes))
    return Head(cast(HeadKind, question.objective), () if question.objective == "question_answering" else labels)


def _why(message: object) -> str:
    first = str(message).strip().partition("\n")[0][:150]
    return f"it cannot be counted without the model's weights ({first})"
