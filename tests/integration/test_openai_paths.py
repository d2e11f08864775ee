"""OpenAI's paths for models that write: what every field does, against Transformers' own numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import jsonschema
import pytest
from openai_paths import Place, chat, complete, events, streamed

# PEFT asks for a property by a name that Transformers has just deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

BROKEN = "\ufffd"
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "type": "object",
                "properties": {"unit": {"$ref": "#/$defs/unit"}, "days": {"type": "integer", "maximum": 9}},
                "required": ["unit"],
                "additionalProperties": False,
                "$defs": {"unit": {"enum": ["C", "F"]}},
            },
        },
    }
    for name in ("weather", "stop")
]
ROUTE = {
    "type": "object",
    "properties": {"queue": {"enum": ["billing", "technical"]}, "urgent": {"type": "boolean"}},
    "required": ["queue", "urgent"],
    "additionalProperties": False,
}


def test_scores_are_those_of_the_model(http: httpx.Client, paths: Place) -> None:
    (choice,) = chat(http, logprobs=True, top_logprobs=4)["choices"]
    tokens = list(paths.written(paths.prompt, 12).token_ids)
    chances = paths.scores([*paths.prompt, *tokens])[len(paths.prompt) - 1 : -1].log_softmax(dim=-1)
    listed = choice["logprobs"]["content"]
    assert len(listed) == 12
    for one, token, row in zip(listed, tokens, chances, strict=True):
        assert one["logprob"] == pytest.approx(row[token].item(), abs=1e-4)
        best = row.topk(4)
        assert [other["logprob"] for other in one["top_logprobs"]] == pytest.approx(best.values.tolist(), abs=1e-4)
        # Greedy: what was chosen is the first of them.
        assert {key: one[key] for key in ("token", "bytes")} == {
            key: one["top_logprobs"][0][key] for key in ("token", "bytes")
        }
    said = b"".join(bytes(one["bytes"]) for one in listed)
    # A character that was not finished is left out of the text.
    assert said.decode(errors="replace").rstrip(BROKEN) == choice["message"]["content"]
    (again,) = streamed(http, logprobs=True, top_logprobs=4)
    assert again["tokens"] == listed
    (plain,) = chat(http, logprobs=True)["choices"]
    assert all(one["top_logprobs"] == [] for one in plain["logprobs"]["content"])
    assert chat(http)["choices"][0]["logprobs"] is None


def test_several_answers_to_one_prompt(http: httpx.Client) -> None:
    sampled = {"temperature": 1.0, "seed": 7, "max_tokens": 20}
    answer = chat(http, n=3, **sampled)
    texts = [choice["message"]["content"] for choice in answer["choices"]]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert answer["usage"]["completion_tokens"] == 60
    assert [choice["text"] for choice in streamed(http, n=3, **sampled)] == texts
    assert chat(http, **sampled)["choices"][0]["message"]["content"] == texts[0]
    assert chat(http, **{**sampled, "seed": 8})["choices"][0]["message"]["content"] != texts[0]
    # Without a seed, answers differ from one time to the next.
    unseeded = {chat(http, temperature=1.0, max_tokens=20)["choices"][0]["message"]["content"] for _ in range(3)}
    assert len(unseeded) == 3


def test_penalties_and_biases_change_the_scores_as_they_say(http: httpx.Client, paths: Place) -> None:
    for settings in ({"presence_penalty": 1.5}, {"frequency_penalty": 0.7}, {"frequency_penalty": -0.4}):
        tokens: list[int] = []
        for _ in range(20):
            row = paths.scores([*paths.prompt, *tokens])[-1].clone()
            for token in set(tokens):
                row[token] -= settings.get("presence_penalty", 0)
                row[token] -= settings.get("frequency_penalty", 0) * tokens.count(token)
            tokens.append(int(row.argmax()))
        answer = chat(http, max_tokens=20, **settings)["choices"][0]["message"]["content"]
        assert answer == paths.tokenizer.decode(tokens).rstrip(BROKEN), settings
    token = paths.tokenizer.encode("a")[0]
    assert chat(http, logit_bias={token: 100})["choices"][0]["message"]["content"] == "a" * 12
    first = paths.written(paths.prompt, 1).token_ids[0]
    banned = chat(http, logit_bias={first: -100}, logprobs=True, max_tokens=1)["choices"][0]["logprobs"]["content"][0]
    row = paths.scores(paths.prompt)[-1].log_softmax(dim=-1)
    second = row.topk(2)
    assert banned["logprob"] == pytest.approx(second.values[1].item(), abs=1e-4)


def test_stop_texts_end_answers_and_are_no_part_of_them(http: httpx.Client) -> None:
    whole = chat(http)["choices"][0]["message"]["content"]
    stop = whole[3:5]
    answer = chat(http, stop=["never said", stop])
    assert answer["choices"][0]["message"]["content"] == whole[: whole.index(stop)]
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] < 12
    (again,) = streamed(http, stop=stop)
    assert (again["text"], again["reason"]) == (whole[: whole.index(stop)], "stop")
    assert chat(http)["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("stream", [False, True])
def test_answers_have_the_schema_that_was_asked_for(http: httpx.Client, stream: bool) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "route", "schema": ROUTE}}
    for settings in ({}, {"temperature": 1.5, "seed": 3}, {"model": "tuned"}):
        texts = _texts(http, stream, response_format=form, max_tokens=300, n=2, **settings)
        for text in texts:
            jsonschema.validate(json.loads(text), ROUTE)


@pytest.mark.parametrize("stream", [False, True])
def test_any_json_object(http: httpx.Client, paths: Place, stream: bool) -> None:
    # A random model would seldom close what it opens.
    closing = {paths.tokenizer.encode(sign)[0]: 8 for sign in ('"', "}")}
    form = {"type": "json_object"}
    for seed in (1, 2):
        (text,) = _texts(
            http, stream, response_format=form, max_tokens=3000, temperature=1.0, seed=seed, logit_bias=closing
        )
        assert isinstance(json.loads(text), dict)


def _texts(http: httpx.Client, stream: bool, **body: Any) -> list[str]:
    if stream:
        return [choice["text"] for choice in streamed(http, **body)]
    return [choice["message"]["content"] for choice in chat(http, **body)["choices"]]


def check_calls(calls: Sequence[Mapping[str, Any]], names: set[str]) -> None:
    assert calls
    for call in calls:
        assert call["type"] == "function"
        assert call["id"].startswith("call_")
        assert call["function"]["name"] in names
        arguments = json.loads(call["function"]["arguments"])
        jsonschema.validate(arguments, TOOLS[0]["function"]["parameters"])


@pytest.mark.parametrize(
    ("choice", "names", "most"),
    [
        ({"tool_choice": "required"}, {"weather", "stop"}, 16),
        ({"tool_choice": "required", "parallel_tool_calls": False}, {"weather", "stop"}, 1),
        ({"tool_choice": {"type": "function", "function": {"name": "stop"}}}, {"stop"}, 1),
    ],
)
def test_calls_that_must_be_made_are_made(
    http: httpx.Client, choice: dict[str, Any], names: set[str], most: int
) -> None:
    settings = {"tools": TOOLS, "max_tokens": 2000, "temperature": 1.0, "seed": 5, **choice}
    answer = chat(http, **settings)["choices"][0]
    assert answer["finish_reason"] == "tool_calls"
    assert answer["message"]["content"] is None
    calls = answer["message"]["tool_calls"]
    check_calls(calls, names)
    assert len(calls) <= most
    (again,) = streamed(http, **settings)
    assert (again["text"], again["reason"]) == ("", "tool_calls")
    assert [call["index"] for call in again["calls"]] == list(range(len(calls)))
    assert [call["function"] for call in again["calls"]] == [call["function"] for call in calls]


def test_calls_that_the_model_makes_by_itself_are_found(http: httpx.Client) -> None:
    # A schema makes the random model write what a tuned one would.
    written = {"const": {"name": "weather", "arguments": {"unit": "C"}}}
    form = {"type": "json_schema", "json_schema": {"schema": written}}
    settings = {"tools": TOOLS, "response_format": form, "max_tokens": 300}
    answer = chat(http, **settings)["choices"][0]
    check_calls(answer["message"]["tool_calls"], {"weather"})
    (again,) = streamed(http, **settings)
    assert (again["text"], again["reason"], len(again["calls"])) == ("", "tool_calls", 1)
    unasked = chat(http, **{**settings, "tool_choice": "none"})["choices"][0]
    assert unasked["finish_reason"] == "stop"
    assert json.loads(unasked["message"]["content"]) == written["const"]
    # Words are words.
    (words,) = streamed(http, tools=TOOLS)
    said = chat(http, tools=TOOLS)["choices"][0]["message"]
    assert said == {"role": "assistant", "content": words["text"], "refusal": None}
    assert words["calls"] == []


def test_texts_and_tokens_are_continued(http: httpx.Client, paths: Place) -> None:
    texts = ["The parcel", "What is the capital"]
    tokens = [paths.tokenizer(text)["input_ids"] for text in texts]
    wanted = [paths.written(one, 9) for one in tokens]
    answer = complete(http, texts, max_tokens=9)
    assert answer["object"] == "text_completion"
    assert [choice["text"] for choice in answer["choices"]] == [one.text for one in wanted]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    prompt_tokens = sum(map(len, tokens))
    assert answer["usage"] == {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": 18,
        "total_tokens": prompt_tokens + 18,
    }
    assert complete(http, tokens, max_tokens=9)["choices"] == answer["choices"]
    assert complete(http, tokens[0], max_tokens=9)["choices"] == answer["choices"][:1]
    assert complete(http, texts[1], max_tokens=9)["choices"][0]["text"] == wanted[1].text
    tuned = complete(http, texts[0], max_tokens=9, model="tuned")["choices"][0]["text"]
    assert tuned == paths.written(tokens[0], 9, tuned=True).text != wanted[0].text
    # OpenAI's own limit where none is given.
    assert complete(http, "x")["usage"]["completion_tokens"] == 16


def test_echo_scores_and_streams_of_continued_texts(http: httpx.Client, paths: Place) -> None:
    texts = ["The parcel", "What is"]
    plain = complete(http, texts, max_tokens=6, n=2, temperature=1.0, seed=4)["choices"]
    echoed = complete(http, texts, max_tokens=6, n=2, temperature=1.0, seed=4, echo=True)["choices"]
    assert [one["text"] for one in echoed] == [texts[at // 2] + choice["text"] for at, choice in enumerate(plain)]
    scored = complete(http, texts[0], max_tokens=6, logprobs=2)["choices"][0]["logprobs"]
    tokens = paths.tokenizer(texts[0])["input_ids"]
    written = list(paths.written(tokens, 6).token_ids)
    chances = paths.scores([*tokens, *written])[len(tokens) - 1 : -1].log_softmax(dim=-1)
    wanted = [row[token].item() for row, token in zip(chances, written, strict=True)]
    assert scored["token_logprobs"] == pytest.approx(wanted, abs=1e-4)
    assert all(len(one) == 2 for one in scored["top_logprobs"])
    assert scored["text_offset"][0] == len(texts[0]) - len(texts[0])
    body = {"model": "org/base", "prompt": texts, "max_tokens": 6, "n": 2, "temperature": 1.0, "seed": 4, "echo": True}
    *pieces, usage = events(http, "/v1/completions", **body, stream_options={"include_usage": True})
    parts = [choice for piece in pieces for choice in piece["choices"]]
    for index, choice in enumerate(echoed):
        assert "".join(part["text"] for part in parts if part["index"] == index) == choice["text"]
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 24
