"""Answers that are kept to a schema: whatever a model would like to write, what comes is JSON of it."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

import jsonschema
import pytest
from tiny_models import tiny_tokenizer

from tunesmith.errors import UsageError
from tunesmith.inference.constraints import ANY_OBJECT, Grammars, calls_schema, schema_grammar

END = 2
MOST_TOKENS = 2000

ROUTE = {
    "type": "object",
    "properties": {
        "queue": {"enum": ["billing", "technical"]},
        "urgent": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 6}, "maxItems": 3},
        "count": {"type": "integer", "minimum": 0, "maximum": 50},
        "who": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/person"}]},
    },
    "required": ["queue", "urgent", "who"],
    "additionalProperties": False,
    "$defs": {
        "person": {
            "type": "object",
            "properties": {"name": {"type": "string", "pattern": "^[a-z]{1,5}$"}},
            "required": ["name"],
            "additionalProperties": False,
        }
    },
}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": ROUTE}}
STOP = {"type": "function", "function": {"name": "stop"}}
BARE = {
    "type": "function",
    "function": {"name": "bare", "parameters": {"type": "object", "additionalProperties": False}},
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def grammars(tokenizer: Any) -> Grammars:
    return Grammars(tokenizer, [END], 400)


def write(grammars: Grammars, tokenizer: Any, schema: Mapping[str, Any], seed: int) -> str:
    """What a writer that likes everything equally would write, except that it closes strings sooner or later."""
    source, matcher, tokens = random.Random(seed), grammars.matcher(schema), []
    for _ in range(MOST_TOKENS):
        allowed = matcher.allowed().nonzero().flatten().tolist()
        ending = [one for one in allowed if '"' in tokenizer.decode([one]) or one == END]
        token = source.choice(ending if ending and source.random() < 0.3 else allowed)
        if token == END:
            return str(tokenizer.decode(tokens))
        matcher.take(token)
        tokens.append(token)
    raise AssertionError(f"no end: {tokenizer.decode(tokens)}")


@pytest.mark.parametrize("seed", range(5))
def test_what_is_written_is_json_of_the_schema(grammars: Grammars, tokenizer: Any, seed: int) -> None:
    jsonschema.validate(json.loads(write(grammars, tokenizer, ROUTE, seed)), ROUTE)


def test_any_object_is_an_object(grammars: Grammars, tokenizer: Any) -> None:
    assert isinstance(json.loads(write(grammars, tokenizer, ANY_OBJECT, 3)), dict)


@pytest.mark.parametrize("seed", range(5))
def test_calls_are_those_of_the_tools_with_arguments_of_their_schemas(
    grammars: Grammars, tokenizer: Any, seed: int
) -> None:
    calls = json.loads(write(grammars, tokenizer, calls_schema([BARE, WEATHER]), seed))
    assert 1 <= len(calls) <= 16
    for call in calls:
        assert call.keys() == {"name", "arguments"}
        tool = {"weather": WEATHER, "bare": BARE}[call["name"]]
        jsonschema.validate(call["arguments"], tool["function"]["parameters"])


def test_one_call_where_one_is_asked_for(grammars: Grammars, tokenizer: Any) -> None:
    schema = calls_schema([BARE], 1)
    assert {len(json.loads(write(grammars, tokenizer, schema, seed))) for seed in range(8)} == {1}
    # Two are not impossible by chance.
    assert max(len(json.loads(write(grammars, tokenizer, calls_schema([BARE]), seed))) for seed in range(8)) > 1


def test_a_tool_without_parameters_takes_any_object(grammars: Grammars, tokenizer: Any) -> None:
    (call,) = json.loads(write(grammars, tokenizer, calls_schema([STOP], 1), 1))
    assert call["name"] == "stop"
    assert isinstance(call["arguments"], dict)


def test_a_model_that_loves_spaces_is_stopped(grammars: Grammars, tokenizer: Any) -> None:
    matcher = grammars.matcher(ROUTE)
    space = tokenizer.encode(" ")[0]
    matcher.take(tokenizer.encode("{")[0])
    taken = 0
    while matcher.allowed()[space]:
        matcher.take(space)
        taken += 1
        assert taken < 100
    assert taken > 16


def test_after_the_end_only_the_end_is_allowed(grammars: Grammars, tokenizer: Any) -> None:
    matcher = grammars.matcher({"const": True})
    for token in tokenizer.encode("true"):
        matcher.take(token)
    assert matcher.allowed().nonzero().flatten().tolist() == [END]
    matcher.take(END)
    assert matcher.allowed().nonzero().flatten().tolist() == [END]


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "nope"}, "nope"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"$ref": "http://127.0.0.1:9/x.json"}, "127.0.0.1"),
        ({"$ref": "#/$defs/nothing"}, "nothing"),
        ({"not": {"type": "string"}}, "not"),
    ],
)
def test_a_schema_that_cannot_be_kept_to_is_refused_with_the_reason(schema: Mapping[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match="cannot be kept") as caught:
        schema_grammar(schema)
    assert caught.value.code == "usage.schema"
    assert reason in str(caught.value.value)


def test_several_ends_and_a_vocabulary_larger_than_the_tokenizers(tokenizer: Any) -> None:
    allowed = Grammars(tokenizer, [0, END], 512).matcher({"enum": ["a"]}).allowed()
    assert allowed.shape == (512,)
    assert not allowed[400:].any()
