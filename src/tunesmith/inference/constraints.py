"""Keep an answer to a grammar: JSON of a schema, any JSON, or calls of functions, by the llguidance library."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from llguidance import LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer

from tunesmith.errors import UsageError

ANY_OBJECT: Mapping[str, Any] = {"type": "object"}
_MOST_CALLS = 16
# A model that repeats itself could else write spaces for ever; this is enough for seven levels of indentation.
_WHITESPACE = r"[\x20\x0A\x0D\x09]{1,32}"


def schema_grammar(schema: Mapping[str, Any]) -> str:
    """The grammar of JSON that a schema allows.

    Raises:
        UsageError: ``usage.schema``: the library cannot keep an answer to this schema; the value says why.
    """
    try:
        grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), defaults={"whitespace_pattern": _WHITESPACE})
    except ValueError as error:
        raise _refused(str(error)) from error
    fault, messages = LLMatcher.validate_grammar_with_warnings(grammar)
    if fault:
        raise _refused(messages[0])
    return grammar


def calls_schema(tools: Sequence[Mapping[str, Any]], most: int = _MOST_CALLS) -> Mapping[str, Any]:
    """The schema of a list of calls, between one and ``most``, of functions in OpenAI's form."""
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": tool["function"]["name"]},
                "arguments": _moved(
                    tool["function"].get("parameters") or dict(ANY_OBJECT), f"#/items/anyOf/{at}/properties/arguments"
                ),
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for at, tool in enumerate(tools)
    ]
    return {"type": "array", "items": {"anyOf": calls}, "minItems": 1, "maxItems": most}


def _moved(schema: Any, place: str) -> Any:
    """A schema that stands at a place of another one: its references to itself begin there."""
    if isinstance(schema, list):
        return [_moved(one, place) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    found = {key: _moved(value, place) for key, value in schema.items()}
    if isinstance(found.get("$ref"), str) and found["$ref"].startswith("#"):
        found["$ref"] = place + found["$ref"].removeprefix("#")
    return found


def _refused(reason: str) -> UsageError:
    said = " ".join(reason.split())[:300]
    return UsageError("answers cannot be kept to this schema", code="usage.schema", value=said)


class Grammars:
    """Makes matchers for one tokenizer; reading its vocabulary takes a second, so that is done once and when needed.

    Args:
        tokenizer: A fast tokenizer of Transformers.
        end_ids: The tokens that end an answer.
        vocabulary: How many scores the model gives.
    """

    def __init__(self, tokenizer: Any, end_ids: Sequence[int], vocabulary: int) -> None:
        self._tokenizer = tokenizer
        self._end_ids = list(end_ids)
        self._vocabulary = vocabulary
        self._read: LLTokenizer | None = None

    def matcher(self, schema: Mapping[str, Any]) -> Matcher:
        """A matcher at the beginning of an answer.

        Raises:
            UsageError: ``usage.schema``.
        """
        grammar = schema_grammar(schema)
        if self._read is None:
            self._read = from_tokenizer(self._tokenizer, n_vocab=self._vocabulary, eos_token=self._end_ids or None)
        return Matcher(LLMatcher(self._read, grammar, log_level=0))


class Matcher:
    """Follows one answer."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def allowed(self) -> torch.Tensor:
        """Which tokens may come next, ``[vocabulary]``, true where one may.

        Raises:
            UsageError: The grammar grew beyond what the library follows.
        """
        bias = self._matcher.compute_logit_bias()
        if self._matcher.is_error():
            raise _refused(self._matcher.get_error())
        return torch.frombuffer(bytearray(bias), dtype=torch.uint8) > 0

    def take(self, token_id: int) -> None:
        """Go on by a token."""
        if not self._matcher.is_stopped():
            self._matcher.consume_token(token_id)
