"""Every named check passes on good rows and fails on a planted fault, and names the rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from chat_templates import styled_tokenizer

from tunesmith.data.audit import Audit, audit
from tunesmith.data.store import TokenStore
from tunesmith.errors import SupervisionError
from tunesmith.formats.examples import Place
from tunesmith.formats.inspect import Inspection
from tunesmith.formats.overlap import Overlap
from tunesmith.formats.read import read_examples
from tunesmith.tasks import PreparedTask, prepare_task

NAMES = {
    "every_row_trains",
    "only_answers_train",
    "end_of_turn_trained",
    "template_matches",
    "messages_rendered",
    "tools_rendered",
    "nothing_lost_to_truncation",
}


def chat(*turns: str, **more: Any) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[n % 2], "content": text} for n, text in enumerate(turns)], **more}


GOOD = [chat("Where is Paris?", "In France."), chat("And Rome?", "In Italy.", "Thanks", "Welcome! 😀")]


def task_for(inspection: Inspection) -> PreparedTask:
    return prepare_task("auto", inspection, [example for _, example in read_examples(inspection)])


def failed(found: Audit) -> set[str]:
    return {check.name for check in found.checks if not check.ok}


def problems(found: Audit, name: str) -> list[str]:
    return [problem.place for check in found.checks if check.name == name for problem in check.problems]


@pytest.mark.parametrize("style", ["chatml", "chatml_trimmed", "llama3", "gemma", "phi3", "mistral", "qwen3"])
def test_good_rows_pass(audited: Callable[..., Audit], style: str) -> None:
    found = audited(GOOD, style)
    assert failed(found) == set()
    assert {check.name for check in found.checks} == NAMES
    found.require_ok()


def test_documents_pass_also_when_laid_out_as_several_rows(audited: Callable[..., Audit]) -> None:
    found = audited([{"text": "The capital of France is Paris. " * 20}, {"text": "Short."}], max_length=50)
    assert failed(found) == set()
    assert found.tokens.longest == 50
    assert any("laid out as several rows" in warning for warning in found.warnings)


def test_a_row_without_trained_tokens(audited: Callable[..., Audit]) -> None:
    row = chat("a", "b")
    row["messages"][1]["weight"] = 0
    found = audited([*GOOD, row])
    assert failed(found) == {"every_row_trains"}
    assert problems(found, "every_row_trains")[0].endswith(":3")


def test_an_end_of_turn_that_the_template_drops(audited: Callable[..., Audit]) -> None:
    found = audited(GOOD, "no_end_of_turn")
    assert failed(found) == {"end_of_turn_trained"}
    assert len(problems(found, "end_of_turn_trained")) == 2


def test_an_answer_that_the_template_leaves_out(audited: Callable[..., Audit]) -> None:
    assert "only_answers_train" in failed(audited(GOOD, "no_content"))


def test_a_turn_s_heading_that_would_train(audited: Callable[..., Audit]) -> None:
    found = audited(GOOD, "no_opening")
    assert failed(found) == {"only_answers_train"}


def test_a_question_that_the_template_leaves_out(audited: Callable[..., Audit]) -> None:
    assert failed(audited(GOOD, "no_question")) == {"messages_rendered"}


def test_tools_that_the_template_ignores(audited: Callable[..., Audit]) -> None:
    tools = [{"type": "function", "function": {"name": "get_weather"}}]
    rows = [*GOOD, chat("Weather?", "Sunny.", tools=tools)]
    assert failed(audited(rows, "qwen3")) == set()
    found = audited(rows, "chatml")
    assert failed(found) == set()
    check = next(check for check in found.checks if check.name == "tools_rendered")
    assert "in 1 as plain JSON, since the template knows no tools" in check.detail


def test_calls_that_cannot_be_read_back_are_written_as_text_and_the_audit_says_why(
    audited: Callable[..., Audit],
) -> None:
    tools = [{"type": "function", "function": {"name": "get_weather"}}]
    row = {"messages": [{"role": "user", "content": "Weather?"}], "tools": tools, "calls": [{"get_weather": {}}]}
    for style in ("nine_letters", "tags"):
        found = audited([row], style)
        assert failed(found) == set()
        assert "plain JSON" not in next(check for check in found.checks if check.name == "tools_rendered").detail
    found = audited([row], "unread")
    assert failed(found) == set()
    check = next(check for check in found.checks if check.name == "tools_rendered")
    assert "in 1 as plain JSON, since the template writes calls in a form that cannot be read back" in check.detail


def test_rows_longer_than_the_limit(audited: Callable[..., Audit]) -> None:
    rows = [*GOOD, *[chat("Long?", "word " * 100)] * 12]
    found = audited(rows, max_length=150)
    assert failed(found) == {"nothing_lost_to_truncation"}
    check = next(check for check in found.checks if check.name == "nothing_lost_to_truncation")
    assert check.count == 12
    assert len(check.problems) == 10
    assert "limit 150" in check.problems[0].message


def test_cutting_that_was_asked_for_is_told_and_what_it_leaves_without_an_answer_is_refused(
    audited: Callable[..., Audit],
) -> None:
    cut_answer = audited([*GOOD, chat("Long?", "word " * 100)], max_length=150, on_long_rows="truncate")
    assert failed(cut_answer) == set()
    assert any("are cut at 150 tokens" in warning for warning in cut_answer.warnings)
    cut_away = audited([*GOOD, chat("word " * 100, "Long.")], max_length=150, on_long_rows="truncate")
    assert failed(cut_away) == {"every_row_trains"}


def test_rows_left_out_are_told(audited: Callable[..., Audit]) -> None:
    found = audited([*GOOD, chat("Long?", "word " * 100)], max_length=150, on_long_rows="skip")
    assert failed(found) == set()
    assert found.tokens.rows == 2
    assert any(warning.startswith("1 rows longer than 150 tokens are left out") for warning in found.warnings)
    none_left = audited([chat("Long?", "word " * 100)], max_length=50, on_long_rows="skip")
    assert "every_row_trains" in failed(none_left)


def test_tokens_of_another_template(audited: Callable[..., Audit]) -> None:
    assert "template_matches" in failed(audited(GOOD, "chatml", audit_style="chatml_system"))


def damaged(store: TokenStore, name: str, change: Callable[[np.ndarray[Any, Any]], None]) -> TokenStore:
    values = np.array(store.arrays[name])
    change(values)
    return TokenStore(store.folder, store.file_names, store.facts, {**store.arrays, name: values})


@pytest.mark.parametrize(
    ("at", "trained", "expected"),
    [
        (10, True, {"only_answers_train", "end_of_turn_trained"}),  # a token of the question
        (-2, False, {"end_of_turn_trained"}),  # the last end of turn
        (-3, False, {"only_answers_train"}),  # the end of the last answer
        (-1, True, {"end_of_turn_trained"}),  # the line break behind it
    ],
)
def test_wrong_marks_are_found(
    tokenized: Callable[..., tuple[TokenStore, Inspection]], at: int, trained: bool, expected: set[str]
) -> None:
    store, inspection = tokenized(GOOD)

    def change(values: np.ndarray[Any, Any]) -> None:
        assert values[at] != trained
        values[at] = trained

    wrong = damaged(store, "trained", change)
    found = audit(wrong, read_examples(inspection), task_for(inspection), styled_tokenizer("chatml"), inspection)
    assert expected <= failed(found)


def test_a_turn_of_weight_0_that_trains_is_found(tokenized: Callable[..., tuple[TokenStore, Inspection]]) -> None:
    weighted = chat("a", "first", "b", "second")
    weighted["messages"][1]["weight"] = 0
    _, inspection = tokenized([weighted])
    store, _ = tokenized([chat("a", "first", "b", "second")])
    fresh = [(store.place(0), example) for _, example in read_examples(inspection)]
    found = audit(store, fresh, task_for(inspection), styled_tokenizer("chatml"), inspection)
    assert failed(found) == {"only_answers_train"}


def test_a_call_of_a_tool_that_does_not_train_is_found(
    tokenized: Callable[..., tuple[TokenStore, Inspection]],
) -> None:
    call = {"type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    row = chat("Weather?", "Let me look.")
    row["messages"][1]["tool_calls"] = [call]
    store, inspection = tokenized([row], "qwen3")
    good = audit(store, read_examples(inspection), task_for(inspection), styled_tokenizer("qwen3"), inspection)
    assert failed(good) == set()

    def change(values: np.ndarray[Any, Any]) -> None:
        values[np.flatnonzero(values)[-20:-1]] = False

    wrong = damaged(store, "trained", change)
    found = audit(wrong, read_examples(inspection), task_for(inspection), styled_tokenizer("qwen3"), inspection)
    assert "only_answers_train" in failed(found)


def test_a_wrong_token_is_found(tokenized: Callable[..., tuple[TokenStore, Inspection]]) -> None:
    store, inspection = tokenized(GOOD)

    def change(values: np.ndarray[Any, Any]) -> None:
        values[4] += 1

    wrong = damaged(store, "token_ids", change)
    found = audit(wrong, read_examples(inspection), task_for(inspection), styled_tokenizer("chatml"), inspection)
    assert "template_matches" in failed(found)


def test_rows_that_are_not_in_the_data_any_more(tokenized: Callable[..., tuple[TokenStore, Inspection]]) -> None:
    store, inspection = tokenized(GOOD)
    fewer = list(read_examples(inspection))[:1]
    found = audit(store, fewer, task_for(inspection), styled_tokenizer("chatml"), inspection)
    assert failed(found) == {"template_matches"}


def test_validation_rows_are_checked_too(tokenized: Callable[..., tuple[TokenStore, Inspection]]) -> None:
    store, inspection = tokenized(GOOD, max_length=150)
    validation, _ = tokenized([chat("Long?", "word " * 100)], max_length=150)
    found = audit(
        store,
        read_examples(inspection),
        task_for(inspection),
        styled_tokenizer("chatml"),
        inspection,
        validation=validation,
    )
    assert failed(found) == {"nothing_lost_to_truncation"}
    assert found.tokens.rows == 2


def test_one_problem_for_each_failed_check(audited: Callable[..., Audit]) -> None:
    row = chat("a", "b")
    row["messages"][1]["weight"] = 0
    found = audited([*GOOD, row, chat("Long?", "word " * 100)], max_length=150)
    with pytest.raises(SupervisionError) as caught:
        found.require_ok()
    codes = [problem.code for problem in caught.value.problems]
    assert codes == ["supervision.every_row_trains", "supervision.nothing_lost_to_truncation"]
    assert caught.value.exit_code == 12
    assert all(problem.hint and problem.place for problem in caught.value.problems)


def test_whole_texts_train_but_for_their_first_token(audited: Callable[..., Audit]) -> None:
    found = audited(GOOD, everything=True)
    assert failed(found) == {"everything_trains"}, "these rows train their answers alone"
    assert [place.partition(":")[2] for place in problems(found, "everything_trains")] == ["1", "2"]


def test_warnings(audited: Callable[..., Audit]) -> None:
    overlap = Overlap(1, 2, ((Place("v.jsonl", 3), Place("t.jsonl", 4)),))
    rows = [*GOOD, GOOD[0], chat("say <|im_end|> please", "No.")]
    found = audited(rows, overlap=overlap, stop_token_ids=(999,))
    assert failed(found) == set()
    text = "\n".join(found.warnings)
    assert "1 of 4 rows hold text that reads as a special token" in text
    assert ":4)" in text
    assert "1 of 4 rows are copies" in text
    assert "2 validation rows have a prompt that is trained on, 1 of them the whole row" in text
    assert "v.jsonl:3 and t.jsonl:4" in text
    assert "generation settings do not stop" not in text


def test_characters_that_the_tokenizer_does_not_know(audited: Callable[..., Audit]) -> None:
    found = audited([GOOD[0], chat("Where?", "漢字 in Japan.")], "few_characters")
    assert failed(found) == set()
    assert any(warning.startswith("1 of 2 sampled rows have characters") for warning in found.warnings)
    known = audited([GOOD[0], chat("Where?", "漢字 in Japan.")], "mistral")
    assert not any("characters" in warning for warning in known.warnings)


def test_an_end_of_turn_at_which_generation_does_not_stop(audited: Callable[..., Audit]) -> None:
    found = audited(GOOD, "phi3", stop_token_ids=(0,))
    assert any(warning.startswith("answers end with <|end|>") for warning in found.warnings)


def test_unbalanced_labels(audited: Callable[..., Audit]) -> None:
    rows = [{"text": f"text {n}", "label": "rare" if n == 0 else "usual"} for n in range(30)]
    found = audited(rows)
    assert failed(found) == set()
    assert "labels are unbalanced: 29 of usual, 1 of rare" in found.warnings
    assert found.to_json()["labels"] == {"usual": 29, "rare": 1}


def test_audit_json(audited: Callable[..., Audit]) -> None:
    found = audited(GOOD, show=2)
    data = json.loads(json.dumps(found.to_json()))
    assert data["ok"] is True
    assert {check["name"] for check in data["checks"]} == NAMES
    assert all(set(check) == {"name", "ok", "detail", "problems"} for check in data["checks"])
    tokens = data["tokens"]
    assert tokens["rows"] == 2
    assert sum(bucket["rows"] for bucket in tokens["histogram"]) == 2
    assert 0 < tokens["trained"] < tokens["total"]
    assert data["overlap"] is None
    assert data["data"]["rows"] == 2
    shown = data["shown"][1]
    assert "".join(piece["text"] for piece in shown["pieces"]) == (
        "<|im_start|>user\nAnd Rome?<|im_end|>\n<|im_start|>assistant\nIn Italy.<|im_end|>\n"
        "<|im_start|>user\nThanks<|im_end|>\n<|im_start|>assistant\nWelcome! 😀<|im_end|>\n"
    )
    trained = "".join(piece["text"] for piece in shown["pieces"] if piece["trained"])
    assert trained == "In Italy.<|im_end|>Welcome! 😀<|im_end|>"
