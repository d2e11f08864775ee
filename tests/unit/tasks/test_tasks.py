"""What is trained on and what is asked: the same words up to the answer, and references that the metrics take."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from tunesmith.errors import DataError, RecipeError
from tunesmith.evaluation.metrics import table
from tunesmith.evaluation.metrics.score import details, score
from tunesmith.formats.examples import Conversation, Document, Example, Message
from tunesmith.formats.inspect import Inspection, inspect_source
from tunesmith.formats.read import read_examples
from tunesmith.tasks import TASKS, PreparedTask, prepare_task
from tunesmith.tasks.preference import answers_of

Prepared = tuple[PreparedTask, list[Example], Inspection]

WEATHER = {"name": "weather", "description": "Tells the weather.", "parameters": {"type": "object", "properties": {}}}
# Tasks that take shapes of other tasks, which mean those until they are named.
NAMED_ONLY = ("creative", "math")
# Tasks that ask nothing; models are measured on their rows by likelihoods.
UNASKED = ("text", "preference")

ROWS: dict[str, list[dict[str, Any]]] = {
    "text": [{"text": "Once upon a time."}, {"text": "The end."}],
    "chat": [
        {
            "messages": [
                {"role": "system", "content": "Be kind."},
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello there, how may I help you on this fine day, dear friend?"},
            ]
        }
    ],
    "classification": [{"text": "late parcel", "label": "delivery"}, {"text": "paid twice", "label": "billing"}],
    "ner": [
        {"tokens": ["Ada", "Lovelace", "met", "Ada"], "tags": ["B-person", "I-person", "O", "B-person"]},
        {"tokens": ["nothing", "here"], "tags": ["O", "O"]},
    ],
    "translation": [
        {"source": "Good day.", "target": "Guten Tag, liebe Leute da.", "source_lang": "en", "target_lang": "de"},
        {"source": "Thanks.", "target": "Muito obrigado por tudo.", "source_lang": "en", "target_lang": "pt-BR"},
    ],
    "creative": [
        {"text": "X:1\nT:A tune\nM:4/4\nL:1/4\nK:D\nDEFG|ABcd|"},
        {"text": "X:2\nT:One more\nM:3/4\nL:1/4\nK:G\nGAB|cde|"},
    ],
    "function_calling": [
        {
            "question": "Rain in Oslo?",
            "functions": [WEATHER],
            "calls": [{"weather": {"city": ["Oslo"], "unit": ["C", ""]}}],
        },
        {
            "question": "Rain in Rome and Pisa?",
            "functions": [WEATHER],
            "calls": [{"weather": {"city": ["Rome"]}}, {"weather": {"city": ["Pisa"]}}],
        },
        {"question": "Tell a joke.", "functions": [WEATHER], "calls": []},
    ],
    "text_to_sql": [
        {
            "question": "How many?",
            "sql": "SELECT COUNT(*) FROM t",
            "tables": [{"name": "t", "columns": ["a"], "rows": [[1]]}],
        },
        {
            "question": "Which?",
            "sql": "SELECT a FROM t ORDER BY a",
            "tables": [{"name": "t", "columns": ["a"], "rows": [[2], [1]]}],
        },
    ],
    "preference": [{"prompt": "Sum of 1 and 2?", "chosen": "3", "rejected": "4"}],
    "math": [
        {"question": "One and one?", "answer": "1 + 1 = 2\n#### 2"},
        {"question": "Two and two?", "answer": "2 + 2 = 4\n#### 4"},
    ],
    "qa": [
        {"question": "Capital of France?", "context": "Paris is the capital.", "answers": ["Paris", "the city Paris"]},
        {"question": "What is it?", "context": "Paris is the capital.", "answers": ["a capital"]},
    ],
}


@pytest.fixture
def prepare(tmp_path: Path) -> Callable[..., Prepared]:
    def make(rows: list[dict[str, Any]], name: str = "auto") -> Prepared:
        path = tmp_path / f"rows{len(list(tmp_path.iterdir()))}.jsonl"
        path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
        inspection = inspect_source(path)
        examples = [example for _, example in read_examples(inspection)]
        return prepare_task(name, inspection, examples), examples, inspection

    return make


def test_every_task_has_rows_here() -> None:
    assert set(ROWS) == set(TASKS)


@pytest.mark.parametrize("name", ROWS)
def test_a_task_follows_from_the_data_and_can_be_named(prepare: Callable[..., Prepared], name: str) -> None:
    automatic, _, _ = prepare(ROWS[name], name if name in NAMED_ONLY else "auto")
    named, _, _ = prepare(ROWS[name], name)
    assert automatic.name == named.name == name
    assert automatic.identity == named.identity
    assert automatic.describe()
    assert all(metric in table.METRICS for metric in automatic.metrics)


@pytest.mark.parametrize("name", [name for name in ROWS if name not in UNASKED])
def test_training_and_evaluation_are_the_same_up_to_the_answer(prepare: Callable[..., Prepared], name: str) -> None:
    task, examples, _ = prepare(ROWS[name], name)
    for example in examples:
        trained, asked = task.training(example), task.evaluation(example)
        assert isinstance(trained, Conversation)
        assert asked is not None
        assert trained.messages[: len(asked.messages)] == asked.messages
        assert trained.messages[len(asked.messages) :] == (asked.answer,)


@pytest.mark.parametrize("name", [name for name in ROWS if name not in UNASKED])
def test_the_learned_answer_is_right_by_the_task_s_own_metrics(prepare: Callable[..., Prepared], name: str) -> None:
    task, examples, _ = prepare(ROWS[name], name)
    rows = [row for example in examples if (row := task.evaluation(example)) is not None]
    answers, references = [row.shown_reference for row in rows], [row.reference for row in rows]
    scores = score(task.metrics, answers, references, task.labels)
    whole = {"share": 1.0, "points": 100.0}
    for ngram_words in (1, 2, 3):
        scores.pop(f"distinct_{ngram_words}", None)  # how varied a text is, not how right
    for metric, found in scores.items():
        assert found["value"] == pytest.approx(whole[table.METRICS[metric].unit]), metric
    details(task.metrics, answers, references, task.labels)
    wrong = score(task.metrics, [""] * len(rows), references, task.labels)
    assert wrong[task.metrics[0]]["value"] == 0


def test_text(prepare: Callable[..., Prepared]) -> None:
    task, examples, _ = prepare(ROWS["text"])
    assert task.training(examples[0]) == Document("Once upon a time.")
    assert task.evaluation(examples[0]) is None
    assert task.metrics == ()
    assert task.max_new_tokens == 0


def test_a_classification_prompt_lists_the_labels_and_ends_with_the_text(prepare: Callable[..., Prepared]) -> None:
    task, examples, _ = prepare(ROWS["classification"])
    asked = [task.evaluation(example) for example in examples]
    systems = {row.messages[0].content for row in asked if row}
    assert systems == {
        "Classify the text. Answer with exactly one of these labels and nothing else:\nbilling\ndelivery"
    }
    assert [row.messages[-1].content for row in asked if row] == ["late parcel", "paid twice"]
    assert task.labels == ("billing", "delivery")
    assert task.metrics == ("accuracy", "macro_f1")


def test_labels_are_as_in_the_data_and_in_a_fixed_order(prepare: Callable[..., Prepared]) -> None:
    numbered, examples, _ = prepare([{"text": f"t{n}", "label": n} for n in (10, 0, 2, 1)])
    assert numbered.labels == ("0", "1", "2", "10")
    row = numbered.evaluation(examples[0])
    assert row is not None
    assert row.reference == "10"
    one_way, _, _ = prepare([{"text": "a", "label": "x"}, {"text": "b", "label": "Y"}])
    other_way, _, _ = prepare([{"text": "b", "label": "Y"}, {"text": "a", "label": "x"}])
    assert one_way.labels == other_way.labels
    assert one_way.identity == other_way.identity
    assert one_way.identity != numbered.identity


def test_the_label_set_is_that_of_all_rows_not_of_the_sample(prepare: Callable[..., Prepared]) -> None:
    _, examples, inspection = prepare(ROWS["classification"])
    assert prepare_task("auto", inspection, examples[:1]).labels == ("billing", "delivery")
    assert prepare_task("auto", inspection, []).labels == ("billing", "delivery")


def test_very_many_labels_are_left_out_of_the_prompt_and_that_is_said(prepare: Callable[..., Prepared]) -> None:
    many, examples, _ = prepare([{"text": f"t{n}", "label": f"label-{n}"} for n in range(401)])
    row = many.evaluation(examples[0])
    assert row is not None
    assert "label-7" not in row.messages[0].content
    assert "does not list them" in many.describe()
    listed, _, _ = prepare([{"text": f"t{n}", "label": f"label-{n}"} for n in range(400)])
    assert "the prompt lists them" in listed.describe()


def test_entities_are_answered_in_order_with_repeats(prepare: Callable[..., Prepared]) -> None:
    task, examples, _ = prepare(ROWS["ner"])
    first, second = (task.evaluation(example) for example in examples)
    assert first is not None
    assert second is not None
    assert first.shown_reference == '[{"text": "Ada Lovelace", "label": "person"}, {"text": "Ada", "label": "person"}]'
    assert second.shown_reference == "[]"
    assert "Labels: person." in first.messages[0].content


def test_translations_name_the_languages_they_know(prepare: Callable[..., Prepared]) -> None:
    task, examples, _ = prepare(ROWS["translation"])
    told = [row.messages[0].content for example in examples if (row := task.evaluation(example))]
    assert told[0].startswith("Translate the text from English into German.")
    assert told[1].startswith("Translate the text from English into Portuguese.")
    assert "from English into German" in task.describe()
    unnamed, examples, _ = prepare([{"source": "a", "target": "b"}])
    row = unnamed.evaluation(examples[0])
    assert row is not None
    assert row.messages[0].content.startswith("Translate the text.")
    odd, examples, _ = prepare([{"source": "a", "target": "b", "source_lang": "xx", "target_lang": "Klingon"}])
    row = odd.evaluation(examples[0])
    assert row is not None
    assert "from xx into Klingon" in row.messages[0].content


def test_questions(prepare: Callable[..., Prepared]) -> None:
    task, examples, _ = prepare(ROWS["qa"])
    row = task.evaluation(examples[0])
    assert row is not None
    assert row.reference == ("Paris", "the city Paris")
    assert row.shown_reference == "Paris"
    # The context comes first: questions on the same context share it.
    assert row.messages[1].content == "Text:\nParis is the capital.\n\nQuestion: Capital of France?"
    bare, examples, _ = prepare([{"question": "Why?", "answer": "Because."}])
    row = bare.evaluation(examples[0])
    assert row is not None
    assert row.messages[1].content == "Why?"
    assert "without a text" in bare.describe()


def test_questions_without_an_answer(prepare: Callable[..., Prepared]) -> None:
    rows = [*ROWS["qa"], {"question": "How old is it?", "context": "Paris is the capital.", "answers": []}]
    task, examples, _ = prepare(rows)
    row = task.evaluation(examples[2])
    assert row is not None
    assert row.shown_reference == "unanswerable"
    assert "answer: unanswerable" in row.messages[0].content
    found = score(["exact_match"], ["", "Unanswerable.", "Paris", "no idea"], [row.reference] * 4)
    assert found["exact_match"]["value"] == 0.5
    for name in ("math", "text_to_sql"):
        with pytest.raises(DataError) as caught:
            prepare(rows, name)[0].evaluation(examples[2])
        assert caught.value.code == "data.no_answer"


@pytest.mark.parametrize(
    ("answers", "metrics"),
    [
        (['{"queue": "billing"}', '{"queue": "sales", "urgency": 1}'], ("json_exact", "json_fields", "json_valid")),
        (["7 apples less 3 is 4.\n#### 4", "#### -1,200"], ("final_number",)),
        (["Paris", "in the year 1999"], ("exact_match", "token_f1")),
        (["A long answer that goes on and on for many words.", "Another, with\na second line."], ("rouge_l", "chrf")),
        (['{"queue": "billing"}', "not an object but a long sentence with words in it"], ("rouge_l", "chrf")),
        (["[1, 2]", "{'a': 1}"], ("exact_match", "token_f1")),
    ],
)
def test_metrics_follow_from_the_form_of_the_answers(
    prepare: Callable[..., Prepared], answers: list[str], metrics: tuple[str, ...]
) -> None:
    asked, _, _ = prepare([{"question": f"q{n}", "answer": answer} for n, answer in enumerate(answers)])
    assert asked.metrics == metrics
    told, examples, _ = prepare([{"prompt": f"q{n}", "completion": answer} for n, answer in enumerate(answers)])
    assert told.name == "chat"
    # Short turns are also compared as texts, whose report has lengths and form.
    assert told.metrics == metrics + (("rouge_l", "chrf") if metrics[0] == "exact_match" else ())
    learned = [row.shown_reference for example in examples if (row := told.evaluation(example)) is not None]
    assert ("lengths" in details(told.metrics, learned, learned)) == ("rouge_l" in told.metrics)


def turn(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def test_dialogues_are_compared_as_texts_though_they_end_in_few_words(prepare: Callable[..., Prepared]) -> None:
    last = [turn("user", "That is all."), turn("assistant", "Good bye.")]
    told, _, _ = prepare(
        [{"messages": [turn("user", f"q{n}"), turn("assistant", "It is open."), *last]} for n in (1, 2)]
    )
    assert told.metrics == ("rouge_l", "chrf")


def test_chat_asks_for_the_last_trained_answer_in_words(prepare: Callable[..., Prepared]) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    tools = [{"type": "function", "function": {"name": "look"}}]
    last_untrained = [turn("user", "a"), turn("assistant", "b"), turn("user", "c"), turn("assistant", "d", weight=0)]
    with_tool = [
        turn("user", "a"),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        turn("tool", "found", tool_call_id="1"),
        turn("assistant", "b"),
    ]
    only_call = with_tool[:2]
    greeting = [turn("assistant", "welcome"), turn("user", "a")]
    rows = [{"messages": messages, "tools": tools} for messages in (last_untrained, with_tool, only_call, greeting)]
    task, examples, inspection = prepare(rows, "chat")
    assert inspection.task == "function_calling"
    asked = [task.evaluation(example) for example in examples]
    assert asked[0] is not None
    assert [message.content for message in asked[0].messages] == ["a"]
    assert asked[0].reference == "b"
    assert asked[1] is not None
    assert [message.role for message in asked[1].messages] == ["user", "assistant", "tool"]
    assert asked[1].tools == (tools[0],)
    assert asked[2:] == [None, None]
    assert task.training(examples[0]) == examples[0]


def test_prompt_and_completion_with_a_system_message(prepare: Callable[..., Prepared]) -> None:
    task, examples, _ = prepare([{"system": "Be kind.", "prompt": "Hi", "completion": "Hello"}])
    assert task.training(examples[0]) == Conversation(
        (Message("system", "Be kind."), Message("user", "Hi"), Message("assistant", "Hello"))
    )


def test_few_shot_turns_come_between_the_instruction_and_the_question(prepare: Callable[..., Prepared]) -> None:
    task, examples, _ = prepare(ROWS["classification"])
    row = task.evaluation(examples[0])
    assert row is not None
    messages = task.few_shot_messages([examples[1], examples[1]], row)
    assert [message.role for message in messages] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert [message.content for message in messages[1:]] == ["paid twice", "billing"] * 2 + ["late parcel"]
    assert messages[0] == row.messages[0]
    assert task.few_shot_messages([], row) == row.messages


def test_room_for_answers(prepare: Callable[..., Prepared]) -> None:
    task, _, _ = prepare(ROWS["classification"])
    assert task.longest_answer == "delivery"
    assert task.max_new_tokens >= 8
    assert task.tokens_to_generate(lambda text: 100) == 133
    huge, _, _ = prepare([{"prompt": "a", "completion": "word " * 5000}])
    assert huge.max_new_tokens == 1024


def test_refusals(prepare: Callable[..., Prepared]) -> None:
    with pytest.raises(RecipeError) as unknown:
        prepare(ROWS["text"], "clasification")
    assert unknown.value.code == "task.unknown"
    assert unknown.value.hint == "did you mean classification?"
    with pytest.raises(RecipeError) as misfit:
        prepare(ROWS["text"], "classification")
    assert misfit.value.code == "task.shape"
    assert "it takes text_label" in str(misfit.value)


def test_tasks_need_no_training_stack() -> None:
    script = "import sys, tunesmith.tasks; assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_conversations_that_call_tools_are_asked_for_their_calls(prepare: Callable[..., Prepared]) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"at": {"city": "Oslo"}}'}}
    tools = [{"type": "function", "function": WEATHER}]
    rows = [
        {"messages": [turn("user", "Rain?"), {"role": "assistant", "tool_calls": [call]}], "tools": tools},
        {"messages": [turn("user", "A joke!"), turn("assistant", "I know none.")], "tools": tools},
    ]
    task, examples, _ = prepare(rows)
    asked = [row for example in examples if (row := task.evaluation(example)) is not None]
    assert task.name == "function_calling"
    assert [row.answer for row in asked] == [task.training(example).messages[-1] for example in examples]  # type: ignore[union-attr]
    references = [row.reference for row in asked]
    answers = ['[weather(at={"city": "Oslo"})]', "None."]
    assert score(task.metrics, answers, references)["calls_match"]["value"] == 1
    assert score(task.metrics, answers[::-1], references)["calls_match"]["value"] == 0


@pytest.mark.parametrize(
    ("row", "opening", "rest"),
    [
        ("one\ntwo\nthree\nfour", "one\ntwo", "three\nfour"),
        ("A single line of some eight words here", "A single", "line of some eight words here"),
        ("word", "", "word"),
    ],
)
def test_a_text_is_written_on_from_its_opening(
    prepare: Callable[..., Prepared], row: str, opening: str, rest: str
) -> None:
    task, examples, _ = prepare([{"text": row}], "creative")
    asked = task.evaluation(examples[0])
    assert asked is not None
    assert asked.messages[-1].content == f"Write on:\n{opening}"
    assert asked.reference == rest


def test_preferences_are_measured_by_likelihoods_alone(prepare: Callable[..., Prepared]) -> None:
    rated = {"prompt": "a", "completion": "b", "label": True}
    pair = {"prompt": "a", "chosen": "b", "rejected": "c"}
    for row, metrics in ((pair, ("pair_accuracy", "margin")), (rated, ("wanted_likelier", "wanted_margin"))):
        task, examples, _ = prepare([row])
        assert (task.name, task.metrics) == ("preference", metrics)
        assert task.tokens_to_generate(len) == 0
        assert task.evaluation(examples[0]) is None
        answers = answers_of(examples[0])
        assert [answer.kind for answer in answers] == [1, 0][: len(answers)]
        learned = [[one.content for one in each.conversation.messages if one.trained] for each in answers]
        assert learned == [["b"], ["c"]][: len(answers)]
