"""Rows of any shape as the conversations that KAITO's trainer reads: JSON lines with ``messages``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from tunesmith.errors import DataError, RecipeError
from tunesmith.executors.protocol import Submission
from tunesmith.formats.examples import Conversation, Example
from tunesmith.formats.inspect import Inspection, inspect_source
from tunesmith.formats.read import read_examples
from tunesmith.formats.split import Split, plan_split
from tunesmith.recipe.schema import Recipe
from tunesmith.runs.atomic import telling_output_errors
from tunesmith.tasks import PreparedTask, prepare_task

TRAIN, HELD_OUT = "train.jsonl", "held-out.jsonl"
_NOT_TAKEN = {
    "text": "its configuration here is for conversations",
    "preference": "it learns no preferences",
    "function_calling": "it passes no functions to the chat template",
}
_SAMPLE_ROWS = 300
# Templates of its models know no other name for it.
_ROLES = {"developer": "system"}


@dataclass(frozen=True)
class WrittenRows:
    """How many rows were written: to train on, and held out for a measurement afterwards."""

    train: int
    held_out: int


def write_rows(submission: Submission, folder: Path) -> WrittenRows:
    """Write ``train.jsonl`` and ``held-out.jsonl`` into a folder, in the wording of the recipe's task.

    Raises:
        DataError: A source cannot be used, or the sources have different shapes.
        RecipeError: ``kaito.task``: the task is none that KAITO can train; or it does not take the data's shape.
        OutputError: The folder cannot be written.
    """
    recipe = submission.recipe
    named = [recipe.data.train] if isinstance(recipe.data.train, str) else [one.path for one in recipe.data.train]
    sources = [_inspected(recipe, place_of(submission, name)) for name in named]
    if len({one.shape for one in sources}) > 1:
        shapes = ", ".join(f"{one.source}: {one.shape}" for one in sources)
        raise DataError("the sources have rows of different shapes", code="data.shapes_differ", value=shapes)
    task = _task(recipe, sources)
    splits = [_split(recipe, source) for source in sources]
    train = _write(folder / TRAIN, _lines(recipe, task, sources, splits, "train"))
    apart = recipe.data.validation
    if isinstance(apart, str):
        sources, splits = [_inspected(recipe, place_of(submission, apart))], [None]
    return WrittenRows(train, _write(folder / HELD_OUT, _lines(recipe, task, sources, splits, "validation")))


def place_of(submission: Submission, name: str) -> str:
    """Where a source of the recipe lies on this machine; an id of a hub stays what it is."""
    for path, source in submission.inputs.items():
        if path == name:
            return str(source)
        if path.startswith(f"{name}/"):
            depth = path.removeprefix(f"{name}/").count("/")
            return str(source.parents[depth])
    return name


def _inspected(recipe: Recipe, source: str) -> Inspection:
    columns = None if recipe.data.columns == "auto" else dict(recipe.data.columns)
    shape = None if recipe.data.shape == "auto" else recipe.data.shape
    inspection = inspect_source(source, columns=columns, shape=shape)
    inspection.require_usable(recipe.data.on_bad_rows)
    return inspection


def _split(recipe: Recipe, source: Inspection) -> Split | None:
    share = recipe.data.validation
    if isinstance(share, str):
        return None
    seed = recipe.data.seed_of_split(recipe.train.seed)
    return plan_split(source, fraction=share, seed=seed, on_bad_rows=recipe.data.on_bad_rows)


def _task(recipe: Recipe, sources: Sequence[Inspection]) -> PreparedTask:
    # The labels of a classification are those of all sources.
    labels = {label: 0 for source in sources for label in source.label_counts}
    whole = replace(sources[0], label_counts={**labels, **sources[0].label_counts})
    rows = (row for source in sources for row in read_examples(source, on_bad_rows=recipe.data.on_bad_rows))
    sample: list[Example] = [example for _, example in islice(rows, _SAMPLE_ROWS)]
    task = prepare_task(recipe.task, whole, sample)
    if task.name in _NOT_TAKEN:
        raise RecipeError(
            f"KAITO cannot train task {task.name}: {_NOT_TAKEN[task.name]}",
            code="kaito.task",
            place="task",
            value=task.name,
            hint="use executor kubernetes",
        )
    return task


def _lines(
    recipe: Recipe, task: PreparedTask, sources: Sequence[Inspection], splits: Sequence[Split | None], side: str
) -> Iterator[bytes]:
    for source, split in zip(sources, splits, strict=True):
        for place, example in read_examples(source, on_bad_rows=recipe.data.on_bad_rows):
            if split is None or split.side(place, example) == side:
                yield orjson.dumps(_row(task.training(example), str(place))) + b"\n"


def _write(target: Path, lines: Iterator[bytes]) -> int:
    count = 0
    with telling_output_errors(target):
        file = target.open("wb")
    with file:
        for line in lines:
            with telling_output_errors(target):
                file.write(line)
            count += 1
    return count


def _row(conversation: Any, place: str) -> dict[str, Any]:
    assert isinstance(conversation, Conversation)
    if conversation.tools or any(message.tool_calls for message in conversation.messages):
        raise DataError(
            "KAITO's trainer takes conversations without calls of functions",
            code="kaito.calls",
            place=place,
            hint="use executor kubernetes, or leave such rows out",
        )
    return {
        "messages": [{"role": _ROLES.get(one.role, one.role), "content": one.content} for one in conversation.messages]
    }
