"""Rows of a recipe in the JSON lines that OpenAI's contract takes: conversations, or pairs of answers.

Every shape that a task words as a conversation can be sent; the same rows validate as in a training of ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from typing import Any

import orjson

from tunesmith.errors import DataError
from tunesmith.formats.examples import Conversation, Example, Message, Place, PreferencePair
from tunesmith.formats.inspect import Inspection, inspect_source
from tunesmith.formats.read import read_examples, weighted_rows
from tunesmith.formats.split import Split, plan_split
from tunesmith.recipe.schema import DataSource, Recipe
from tunesmith.tasks.prepare import prepare_task
from tunesmith.tasks.types import PreparedTask

_SAMPLE_ROWS = 500
Rows = Iterator[tuple[Place, Example]]


@dataclass(frozen=True)
class Source:
    """One training source; ``split`` is None where validation is a source of its own."""

    inspection: Inspection
    weight: float
    split: Split | None

    def rows(self, side: str, on_bad_rows: str) -> Rows:
        """The rows of one side, in order."""
        found = read_examples(self.inspection, on_bad_rows=on_bad_rows)
        if self.split is None:
            return found
        split = self.split
        return ((place, example) for place, example in found if split.side(place, example) == side)


@dataclass(frozen=True)
class Data:
    """The rows of a recipe on both sides of the split, and the task that words them."""

    recipe: Recipe
    sources: tuple[Source, ...]
    validation: Inspection | None
    task: PreparedTask

    @property
    def shape(self) -> str:
        """What a row is."""
        return self.sources[0].inspection.shape

    def training_lines(self) -> Iterator[bytes]:
        """The rows to train on, a line each.

        Raises:
            DataError: ``data.nothing_trained``: a row without an answer to learn.
        """
        return self._lines(chain.from_iterable(map(self._weighted, self.sources)))

    def validation_lines(self) -> Iterator[bytes]:
        """The rows to validate on, a line each."""
        return self._lines(self._held_out())

    def _lines(self, rows: Rows) -> Iterator[bytes]:
        for place, example in rows:
            line = _pair(example) if isinstance(example, PreferencePair) else _chat(self.task.training(example), place)
            yield orjson.dumps(line) + b"\n"

    def _held_out(self) -> Rows:
        policy = self.recipe.data.on_bad_rows
        if self.validation is not None:
            return read_examples(self.validation, on_bad_rows=policy)
        return chain.from_iterable(source.rows("validation", policy) for source in self.sources)

    def _weighted(self, source: Source) -> Rows:
        """A weight repeats rows, its fraction leaves some out; as in a training of ours."""
        policy = self.recipe.data.on_bad_rows
        count = source.split.train_rows if source.split else source.inspection.good_rows
        return weighted_rows(lambda: source.rows("train", policy), count, source.weight, self.recipe.train.seed)


def read_data(recipe: Recipe, inputs: Mapping[str, Path]) -> Data:
    """Inspect what a recipe names, decide which rows validate, and fit the task.

    Args:
        recipe: Its paths are those of this machine, or of ``inputs``.
        inputs: Files on this machine by the paths that the recipe has for them.

    Raises:
        DataError: A source cannot be used, or sources have different shapes.
        RecipeError: The task does not take the rows.
        NetworkError: A hub did not answer.
    """
    spec, seed = recipe.data, recipe.train.seed
    columns = None if spec.columns == "auto" else dict(spec.columns)
    shape = None if spec.shape == "auto" else spec.shape

    def inspected(source: str) -> Inspection:
        found = inspect_source(_on_this_machine(source, inputs), columns=columns, shape=shape)
        found.require_usable(spec.on_bad_rows)
        return found

    named = (DataSource(path=spec.train, weight=1.0),) if isinstance(spec.train, str) else spec.train
    sources = []
    for one in named:
        inspection, split = inspected(one.path), None
        if isinstance(spec.validation, float):
            split = plan_split(
                inspection, fraction=spec.validation, seed=spec.seed_of_split(seed), on_bad_rows=spec.on_bad_rows
            )
        sources.append(Source(inspection, one.weight, split))
    validation = inspected(spec.validation) if isinstance(spec.validation, str) else None
    found = [*(source.inspection for source in sources), *([validation] if validation else [])]
    if len({one.shape for one in found}) > 1:
        raise DataError(
            "the sources have rows of different shapes",
            code="data.shapes_differ",
            value=", ".join(f"{one.source}: {one.shape}" for one in found),
            hint="bring them into one shape, or name shape and columns under data",
        )
    return Data(recipe, tuple(sources), validation, _task(recipe, [source.inspection for source in sources]))


def _task(recipe: Recipe, inspections: Sequence[Inspection]) -> PreparedTask:
    labels: Counter[str] = Counter()
    for one in inspections:
        labels.update(one.label_counts)
    whole = replace(inspections[0], label_counts=dict(labels.most_common()))
    policy = recipe.data.on_bad_rows
    sample = chain.from_iterable(islice(read_examples(one, on_bad_rows=policy), _SAMPLE_ROWS) for one in inspections)
    return prepare_task(recipe.task, whole, [example for _, example in sample])


def _on_this_machine(source: str, inputs: Mapping[str, Path]) -> str:
    """Where a source lies that may be a file or a folder of the run's inputs."""
    if source in inputs:
        return str(inputs[source])
    inside = next((path for path in inputs if path.startswith(f"{source}/")), None)
    if inside is None:
        return source
    depth = len(PurePosixPath(inside.removeprefix(f"{source}/")).parts)
    return str(inputs[inside].parents[depth - 1])


def _chat(found: Any, place: Place) -> dict[str, Any]:
    """A line of a conversation; what is not to be learned has weight 0."""
    assert isinstance(found, Conversation)
    if not any(message.role == "assistant" and message.trained for message in found.messages):
        raise DataError(
            "no turn of the assistant is to be learned",
            code="data.nothing_trained",
            place=str(place),
            hint="give an answer weight 1, or remove the row",
        )
    line: dict[str, Any] = {"messages": _messages(found.messages, weights=True)}
    return {**line, "tools": list(found.tools)} if found.tools else line


def _pair(pair: PreferencePair) -> dict[str, Any]:
    given: dict[str, Any] = {"messages": _messages(pair.messages, weights=False)}
    if pair.tools:
        given["tools"] = list(pair.tools)
    return {
        "input": given,
        "preferred_output": [{"role": "assistant", "content": pair.chosen}],
        "non_preferred_output": [{"role": "assistant", "content": pair.rejected}],
    }


def _messages(messages: Sequence[Message], *, weights: bool) -> list[dict[str, Any]]:
    written: list[dict[str, Any]] = []
    # Calls of older formats have no names; answers of tools belong to them in order.
    open_calls: list[str] = []
    for number, message in enumerate(messages):
        one: dict[str, Any] = {"role": message.role}
        if message.content or not message.tool_calls:
            one["content"] = message.content
        if message.name is not None and message.role != "tool":
            one["name"] = message.name
        if message.tool_calls:
            one["tool_calls"] = [_call(call, f"call_{number}_{at}") for at, call in enumerate(message.tool_calls)]
            open_calls += [str(call["id"]) for call in one["tool_calls"]]
        if message.role == "tool":
            one["tool_call_id"] = message.tool_call_id or (open_calls[0] if open_calls else f"call_{number}")
            if one["tool_call_id"] in open_calls:
                open_calls.remove(one["tool_call_id"])
        if weights and message.role == "assistant" and not message.trained:
            one["weight"] = 0
        written.append(one)
    return written


def _call(call: Mapping[str, Any], identifier: str) -> dict[str, Any]:
    function = call["function"]
    arguments = function["arguments"]
    text = arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
    return {
        "id": call.get("id") or identifier,
        "type": "function",
        "function": {"name": function["name"], "arguments": text},
    }
