"""What rows of each shape become, and what is said of rows that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunesmith.formats.detect import task_of_shape
from tunesmith.formats.examples import (
    SHAPES,
    Call,
    Conversation,
    Document,
    EntityText,
    Example,
    LabelledText,
    Message,
    PreferencePair,
    PromptCompletion,
    QuestionAnswer,
    RatedAnswer,
    Span,
    SqlQuestion,
    SqlTable,
    ToolRequest,
    Translation,
)
from tunesmith.formats.inspect import inspect_source
from tunesmith.formats.read import read_examples

USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Hello"}
HI, HELLO = Message("user", "Hi"), Message("assistant", "Hello")
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
OLD_CALL = {"type": "function", "function": {"name": "f", "arguments": "{}"}}

GOOD: list[tuple[str, dict[str, Any], str, Example]] = [
    ("chat", {"messages": [USER, ANSWER]}, "chat", Conversation((HI, HELLO))),
    (
        "weights",
        {"messages": [USER, {**ANSWER, "weight": 0}, USER, {**ANSWER, "weight": 1}]},
        "chat",
        Conversation((HI, Message("assistant", "Hello", trained=False), HI, HELLO)),
    ),
    (
        "tools",
        {
            "messages": [
                {"role": "developer", "content": "Be brief"},
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
                    "name": "Ann",
                },
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "content": "", "tool_call_id": "c1"},
                ANSWER,
            ],
            "tools": [TOOL],
            "parallel_tool_calls": False,
        },
        "chat",
        Conversation(
            (
                Message("developer", "Be brief"),
                Message("user", "ab", name="Ann"),
                Message("assistant", "", tool_calls=(CALL,)),
                Message("tool", "", tool_call_id="c1"),
                HELLO,
            ),
            (TOOL,),
        ),
    ),
    (
        "old functions",
        {
            "messages": [
                USER,
                {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}},
                {"role": "function", "name": "f", "content": "3"},
            ],
            "functions": [{"name": "f", "parameters": {}}],
        },
        "chat",
        Conversation(
            (HI, Message("assistant", "", tool_calls=(OLD_CALL,)), Message("tool", "3", name="f")),
            ({"type": "function", "function": {"name": "f", "parameters": {}}},),
        ),
    ),
    (
        "sharegpt",
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}], "system": "Kind"},
        "chat",
        Conversation((Message("system", "Kind"), HI, HELLO)),
    ),
    (
        "sharegpt with a call",
        {
            "conversations": [
                {"from": "human", "value": "Hi"},
                {"from": "function_call", "value": '{"name": "f", "arguments": "{}"}'},
                {"from": "observation", "value": "3"},
                {"from": "gpt", "value": "Hello"},
            ],
            "tools": '[{"name": "f", "parameters": {}}]',
        },
        "chat",
        Conversation((HI, Message("assistant", "", tool_calls=(OLD_CALL,)), Message("tool", "3"), HELLO), (TOOL,)),
    ),
    ("prompt", {"prompt": "a", "completion": "b"}, "prompt_completion", PromptCompletion("a", "b")),
    (
        "alpaca",
        {"instruction": "Sum", "input": "1 2", "output": "3", "system": "Count"},
        "prompt_completion",
        PromptCompletion("Sum\n\n1 2", "3", "Count"),
    ),
    (
        "alpaca without input",
        {"instruction": "Go", "input": "", "output": "x"},
        "prompt_completion",
        PromptCompletion("Go", "x"),
    ),
    (
        "question and response",
        {"system_prompt": "S", "question": "q", "response": "r"},
        "prompt_completion",
        PromptCompletion("q", "r", "S"),
    ),
    ("text", {"title": "T", "text": "long"}, "text", Document("long")),
    ("label", {"text": "good", "label": 1}, "text_label", LabelledText("good", "1")),
    ("intent", {"Utterance": "good", "Intent": "praise", "domain": "d"}, "text_label", LabelledText("good", "praise")),
    ("truth", {"sentence": "s", "class": True}, "text_label", LabelledText("s", "true")),
    (
        "tags",
        {"tokens": ["Ann", "Lee", "in", "Rome"], "ner_tags": ["B-per", "I-per", "O", "B-loc"]},
        "entities",
        EntityText(
            "Ann Lee in Rome",
            (Span(0, 7, "per"), Span(11, 15, "loc")),
            ("Ann", "Lee", "in", "Rome"),
            ("B-per", "I-per", "O", "B-loc"),
        ),
    ),
    (
        "adjacent tags",
        {"tokens": ["A", "B"], "tags": ["B-x", "B-x"]},
        "entities",
        EntityText("A B", (Span(0, 1, "x"), Span(2, 3, "x")), ("A", "B"), ("B-x", "B-x")),
    ),
    (
        "spans",
        {
            "text": "to Rome now",
            "intent": "go",
            "entities": [
                {"start": 8, "end": 11, "label": "time"},
                {"start": 3, "end": 7, "label": "city", "text": "Rome"},
            ],
        },
        "entities",
        EntityText("to Rome now", (Span(3, 7, "city"), Span(8, 11, "time"))),
    ),
    ("no spans", {"text": "nothing", "entities": []}, "entities", EntityText("nothing", ())),
    (
        "span lists",
        {"text": "Rome", "entities": [[0, 4, "city"]]},
        "entities",
        EntityText("Rome", (Span(0, 4, "city"),)),
    ),
    (
        "span columns",
        {"text": "Rome", "entities": {"start": [0], "end": [4], "label": ["city"]}},
        "entities",
        EntityText("Rome", (Span(0, 4, "city"),)),
    ),
    (
        "translation",
        {"src": "yes", "tgt": "ja", "source_lang": "en", "target_lang": "de"},
        "translation",
        Translation("yes", "ja", "en", "de"),
    ),
    (
        "nested translation",
        {"id": "1", "translation": {"en": "yes", "de": "ja"}},
        "translation",
        Translation("yes", "ja", "en", "de"),
    ),
    (
        "squad",
        {"id": "1", "context": "c", "question": "q", "answers": {"text": ["a", "b", "a"], "answer_start": [1, 2, 3]}},
        "question_answer",
        QuestionAnswer("q", ("a", "b"), "c", (1, 2)),
    ),
    ("answer list", {"question": "q", "answer": ["a"]}, "question_answer", QuestionAnswer("q", ("a",))),
    (
        "answer objects",
        {"question": "q", "answers": [{"text": "a", "answer_start": 0}]},
        "question_answer",
        QuestionAnswer("q", ("a",), None, (0,)),
    ),
    (
        "squad without an answer",
        {"id": "1", "context": "c", "question": "q", "answers": {"text": [], "answer_start": []}},
        "question_answer",
        QuestionAnswer("q", (), "c"),
    ),
    (
        "impossible",
        {"context": "c", "question": "q", "answers": [], "is_impossible": True},
        "question_answer",
        QuestionAnswer("q", (), "c"),
    ),
    ("answer text", {"Question": "q", "Answer": "a"}, "question_answer", QuestionAnswer("q", ("a",))),
    ("answer number", {"question": "q", "answer": 4}, "question_answer", QuestionAnswer("q", ("4",))),
    (
        "pairs",
        {"instruction": "Sum", "input": "1 2", "output": "3", "chosen": "3", "rejected": "4"},
        "preference",
        PreferencePair((Message("user", "Sum\n\n1 2"),), "3", "4"),
    ),
    (
        "pair lists",
        {"chosen": [USER, ANSWER], "rejected": [USER, {"role": "assistant", "content": "Go"}]},
        "preference",
        PreferencePair((HI,), "Hello", "Go"),
    ),
    (
        "prompt repeated",
        {"prompt": "Hi", "chosen": [USER, ANSWER], "rejected": [USER, {"role": "assistant", "content": "Go"}]},
        "preference",
        PreferencePair((HI,), "Hello", "Go"),
    ),
    (
        "prompt messages",
        {"prompt": [USER], "chosen": [ANSWER], "rejected": [{"role": "assistant", "content": "Go"}]},
        "preference",
        PreferencePair((HI,), "Hello", "Go"),
    ),
]
GOOD += [
    ("rated", {"prompt": "Hi", "completion": "Go", "label": False}, "rated", RatedAnswer((HI,), "Go", False)),
    (
        "rated text",
        {"prompt": "Hi", "completion": "Hello", "label": "True"},
        "rated",
        RatedAnswer((HI,), "Hello", True),
    ),
    (
        "rated lists",
        {"prompt": [USER], "completion": [ANSWER], "label": True},
        "rated",
        RatedAnswer((HI,), "Hello", True),
    ),
    (
        "a label that rates nothing",
        {"prompt": "Hi", "completion": "Go", "label": "greeting"},
        "prompt_completion",
        PromptCompletion("Hi", "Go"),
    ),
]
GOOD += [
    (
        "calls of functions",
        {
            "question": [[USER]],
            "function": [{"name": "f", "parameters": {"type": "dict"}}],
            "ground_truth": [{"f": {"a": [1, ""]}}],
        },
        "function_calls",
        ToolRequest(
            (Message("user", "Hi"),),
            ({"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}},),
            (Call("f", {"a": (1, "")}),),
        ),
    ),
    (
        "SQL with a table",
        {
            "question": "How many?",
            "sql": "SELECT COUNT(*) FROM t",
            "table": {"name": "t", "columns": ["a"], "rows": [[1]]},
        },
        "text_to_sql",
        SqlQuestion("How many?", "SELECT COUNT(*) FROM t", None, (SqlTable("t", ("a",), ((1,),)),)),
    ),
]
GOOD += [
    (
        preferred,
        {
            "input": {"messages": [USER], "tools": [TOOL]},
            preferred: [ANSWER],
            f"non_{preferred}": [{"role": "assistant", "content": "Go"}],
        },
        "preference",
        PreferencePair((HI,), "Hello", "Go", (TOOL,)),
    )
    for preferred in ("preferred_output", "preferred_completion")
]


@pytest.mark.parametrize(("row", "shape", "example"), [case[1:] for case in GOOD], ids=[case[0] for case in GOOD])
def test_good_rows(write: Callable[..., Path], row: dict[str, Any], shape: str, example: Example) -> None:
    inspection = inspect_source(write("rows.jsonl", [row]))
    assert inspection.bad_rows.lines() == []
    assert inspection.shape == shape
    assert [example for _, example in read_examples(inspection)] == [example]
    assert type(example) is SHAPES[shape]


def test_every_shape_has_a_good_row_and_a_task() -> None:
    assert {case[2] for case in GOOD} == set(SHAPES)
    assert {task_of_shape(shape) for shape in SHAPES} == {
        "chat", "text", "classification", "ner", "translation", "qa", "preference",
        "function_calling", "text_to_sql",
    }  # fmt: skip


CHAT: dict[str, Any] = {"messages": [USER, ANSWER]}
TAGGED: dict[str, Any] = {"tokens": ["a", "b"], "tags": ["B-x", "O"]}
SPANS: dict[str, Any] = {"text": "Rome", "entities": []}
PAIR: dict[str, Any] = {"prompt": "Hi", "chosen": "yes", "rejected": "no"}
BAD: list[tuple[str, dict[str, Any], Any, str]] = [
    ("data_type", CHAT, ["no object"], "a row must be a JSON object, this is a list: ['no object']"),
    ("data_type", CHAT, {"messages": ["Hi"]}, "message 1 must be an object, found Hi"),
    ("missing_messages_list", CHAT, {"messages": []}, "must be a list with something in it"),
    ("missing_messages_list", CHAT, {"text": "a"}, "found None"),
    ("message_missing_key", CHAT, {"messages": [{"role": "user"}, ANSWER]}, "message 1 has no `content`"),
    ("message_missing_key", CHAT, {"messages": [{"content": "x"}, ANSWER]}, "message 1 has no `role`"),
    ("message_unrecognized_key", CHAT, {"messages": [USER, {**ANSWER, "wieght": 0}]}, "unknown key `wieght`"),
    ("unrecognized_role", CHAT, {"messages": [{"role": "wizard", "content": "x"}, ANSWER]}, "has the role wizard"),
    ("missing_content", CHAT, {"messages": [{"role": "user", "content": ""}, ANSWER]}, "message 1 (user) has no text"),
    ("missing_content", CHAT, {"messages": [USER, {"role": "assistant", "content": None}]}, "message 2 (assistant)"),
    ("example_missing_assistant_message", CHAT, {"messages": [USER]}, "nothing to learn"),
    (
        "unsupported_content",
        CHAT,
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}, ANSWER]},
        "message 1",
    ),
    ("invalid_weight", CHAT, {"messages": [USER, {**ANSWER, "weight": 0.5}]}, "found 0.5"),
    ("invalid_weight", CHAT, {"messages": [{**USER, "weight": 1}, ANSWER]}, "message 1 (user)"),
    (
        "invalid_tool_calls",
        CHAT,
        {"messages": [USER, {"role": "assistant", "tool_calls": [{"id": "1"}]}]},
        "function.name",
    ),
    ("invalid_tools", CHAT, {"messages": [USER, ANSWER], "tools": [{"type": "x"}]}, "a tool needs a function"),
    ("missing_completion", {"prompt": "a", "completion": "b"}, {"prompt": "a"}, "no value in column `completion`"),
    (
        "empty_completion",
        {"prompt": "a", "completion": "b"},
        {"prompt": "a", "completion": " "},
        "`completion` is empty",
    ),
    ("empty_text", {"text": "a"}, {"text": "\n"}, "`text` is empty"),
    ("missing_text", {"text": "a"}, {"title": "a"}, "no value in column `text`"),
    ("data_type", {"text": "a"}, {"text": 4}, "`text` must be a text, found 4"),
    ("missing_label", {"text": "a", "label": "b"}, {"text": "a", "label": None}, "no label in column `label`"),
    ("missing_label", {"text": "a", "label": "b"}, {"text": "a", "label": " "}, "no label in column `label`"),
    ("several_labels", {"text": "a", "label": "b"}, {"text": "a", "label": ["b", "c"]}, "found 2"),
    ("tags_do_not_match_tokens", TAGGED, {"tokens": ["a"], "tags": ["O", "O"]}, "1 tokens but 2 tags"),
    ("invalid_tag", TAGGED, {"tokens": ["a"], "tags": ["S-x"]}, "tag 1 must be O, B-name or I-name, found S-x"),
    ("invalid_tag", TAGGED, {"tokens": ["a"], "tags": [3]}, "found 3"),
    ("tags_not_iob2", TAGGED, {"tokens": ["a", "b"], "tags": ["B-x", "I-y"]}, "tag 2 is I-y without a B-y before it"),
    ("empty_text", TAGGED, {"tokens": [], "tags": []}, "no tokens"),
    (
        "span_outside_text",
        SPANS,
        {"text": "Rome", "entities": [{"start": 1, "end": 5, "label": "x"}]},
        "characters 1 to 5 of a text of 4 characters",
    ),
    (
        "span_outside_text",
        SPANS,
        {"text": "Rome", "entities": [{"start": 2, "end": 2, "label": "x"}]},
        "characters 2 to 2",
    ),
    (
        "span_text_differs",
        SPANS,
        {"text": "Rome", "entities": [{"start": 0, "end": 2, "label": "x", "text": "om"}]},
        "characters 0 to 2 are Ro, not om",
    ),
    ("missing_label", SPANS, {"text": "Rome", "entities": [{"start": 0, "end": 2}]}, "an entity without a label"),
    ("not_two_languages", {"translation": {"en": "a", "de": "b"}}, {"translation": {"en": "a"}}, "found ['en']"),
    (
        "missing_answer",
        {"question": "q", "answers": {"text": ["a"]}},
        {"question": "q", "answers": {"text": []}},
        "no answer",
    ),
    ("missing_question", {"question": "q", "answer": "a"}, {"answer": "a"}, "no value in column `question`"),
    ("missing_prompt", PAIR, {"chosen": "a", "rejected": "b"}, "no prompt"),
    ("different_prompts", PAIR, {"prompt": "Hi", "chosen": [USER, ANSWER], "rejected": [ANSWER]}, "same messages"),
    ("missing_rejected", PAIR, {"prompt": "Hi", "chosen": "yes"}, "no value in column `rejected`"),
]


@pytest.mark.parametrize(("kind", "good", "bad", "message"), BAD, ids=[f"{n}-{c[0]}" for n, c in enumerate(BAD)])
def test_bad_rows(write: Callable[..., Path], kind: str, good: dict[str, Any], bad: Any, message: str) -> None:
    inspection = inspect_source(write("rows.jsonl", [good, good, bad, good]))
    assert list(inspection.bad_rows.kinds) == [kind]
    (first,) = inspection.bad_rows.kinds[kind].first
    assert first.place.line == 3
    assert message in first.message
    assert (inspection.rows, inspection.good_rows) == (4, 3)
