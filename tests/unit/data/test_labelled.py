"""Texts as rows for heads and back: where labels stand, what cannot be put on tokens, and what happens to long rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import tiny_encoder_folder, tiny_model_folder, tiny_seq2seq_folder

from tunesmith.data.label_rows import tokenize_labelled, tokenize_seq2seq
from tunesmith.data.labelled import ENDS, STARTS, make_reader
from tunesmith.data.render import Note
from tunesmith.data.store import TokenStore
from tunesmith.data.words import entities_of, tag_labels, tagged_words
from tunesmith.errors import SupervisionError
from tunesmith.formats.examples import EntityText, Example, LabelledText, Place, QuestionAnswer, Span
from tunesmith.formats.inspect import inspect_source
from tunesmith.models.load import load_tokenizer
from tunesmith.tasks import PreparedTask, prepare_task

KINDS = ("encoder", "causal")
CITY = EntityText("To Oslo, not Rome.", (Span(3, 7, "city"), Span(13, 17, "city")))
ASKED = QuestionAnswer("Where to?", ("Oslo",), "They go to Oslo today.")


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    place = tmp_path_factory.mktemp("tokenizers")
    made = {
        "encoder": tiny_encoder_folder(place / "bert"),
        "causal": tiny_model_folder("llama", place / "llama"),
        "encoder_decoder": tiny_seq2seq_folder(place / "t5"),
    }
    return {kind: load_tokenizer(folder) for kind, folder in made.items()}


ROWS: dict[str, tuple[list[dict[str, Any]], list[Example]]] = {
    "sequence_classification": (
        [{"text": "a", "label": "down"}, {"text": "b", "label": "up"}],
        [LabelledText("short", "up"), LabelledText("a long text " * 9, "up")],
    ),
    "token_classification": (
        [{"text": "to Oslo", "entities": [{"start": 3, "end": 7, "label": "city"}]}],
        [CITY, EntityText("a long text " * 9 + "to Oslo", (Span(111, 115, "city"),))],
    ),
    "question_answering": (
        [{"question": "q", "context": "an answer", "answer": "answer"}],
        [ASKED, QuestionAnswer("Where to?", ("Oslo",), "a long text " * 9 + "to Oslo")],
    ),
}


def task_for(objective: str, folder: Path) -> PreparedTask:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS[objective][0]))
    return prepare_task("auto", inspect_source(path), ROWS[objective][1])


def stored(
    objective: str, kind: str, tokenizer: Any, folder: Path, examples: list[Example], **options: Any
) -> TokenStore:
    numbered = [(Place("rows.jsonl", at), example) for at, example in enumerate(examples, start=1)]
    task = task_for(objective, folder)
    return tokenize_labelled(
        numbered,
        task,
        tokenizer,
        folder / "store",
        objective=objective,
        model_kind=kind,
        **{"max_length": 512, **options},
    )


@pytest.mark.parametrize(("kind", "at"), [("encoder", 0), ("causal", -1)])
def test_the_label_of_a_text_stands_where_all_of_it_was_seen(tokenizers: dict[str, Any], kind: str, at: int) -> None:
    reader = make_reader("sequence_classification", ("down", "up"), tokenizers[kind], kind)
    row = reader.encode(LabelledText("one two three", "up"))
    assert row.token_ids_T.tolist() == tokenizers[kind]("one two three")["input_ids"]
    assert row.marked_T.sum() == 1
    assert (row.marked_T[at], row.label_ids_T[at]) == (True, 1)
    assert reader.answer(row, reader.predict(np.array([[0.1, 0.7]])).tolist()) == "up"


@pytest.mark.parametrize("kind", KINDS)
def test_words_are_tagged_once_each_and_read_back(tokenizers: dict[str, Any], kind: str) -> None:
    reader = make_reader("token_classification", ("city",), tokenizers[kind], kind)
    row = reader.encode(CITY)
    tags = [reader.labels[label] for label in row.label_ids_T[row.marked_T]]
    assert tags == ["O", "B-city", "O", "O", "B-city", "O"]
    # The last token of Rome has seen the word; the first one of both ways need not.
    ids = tokenizers[kind](CITY.text, return_offsets_mapping=True)["offset_mapping"]
    rome = [number for number, (start, end) in enumerate(ids) if end > 13 and start < 17 and end > start]
    assert len(rome) > 1
    assert row.marked_T[rome].tolist() == [number == (rome[0] if kind == "encoder" else rome[-1]) for number in rome]
    answer = json.loads(reader.answer(row, row.label_ids_T[row.marked_T].tolist()))
    assert answer == [
        {"text": "Oslo", "label": "city", "start": 3, "end": 7},
        {"text": "Rome", "label": "city", "start": 13, "end": 17},
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("answer", ["Oslo", "They", "today.", "They go to Oslo today."])
def test_an_answer_is_marked_in_its_text_and_read_back(tokenizers: dict[str, Any], kind: str, answer: str) -> None:
    reader = make_reader("question_answering", (), tokenizers[kind], kind)
    assert ASKED.context is not None
    row = reader.encode(QuestionAnswer("Where do they go to today?", ("in the car", answer), ASKED.context))
    marks_L = row.label_ids_T[row.marked_T]
    assert [(marks_L & bit).astype(bool).sum() for bit in (STARTS, ENDS)] == [1, 1]
    assert reader.answer(row, marks_L.tolist()) == answer
    scores_L_C = np.stack([(marks_L & STARTS) * 9.0, (marks_L & ENDS) * 4.5], axis=1)
    assert reader.predict(scores_L_C).tolist() == marks_L.tolist()


def test_an_answer_never_ends_before_it_starts_nor_far_behind(tokenizers: dict[str, Any]) -> None:
    reader = make_reader("question_answering", (), tokenizers["encoder"], "encoder")
    scores_L_C = np.zeros((200, 2))
    scores_L_C[50, 0] = 9.0
    scores_L_C[[20, 60, 190], 1] = 5.0, 1.0, 5.0
    assert np.flatnonzero(reader.predict(scores_L_C)).tolist() == [50, 60]


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_is_marked_where_the_row_says(tokenizers: dict[str, Any], kind: str) -> None:
    reader = make_reader("question_answering", (), tokenizers[kind], kind)
    context = "Oslo, not Rome; Oslo"
    marked = [
        row.places[int(np.flatnonzero(row.label_ids_T[row.marked_T] & STARTS)[0])][0]
        for row in (
            reader.encode(QuestionAnswer("q", ("Oslo",), context, starts)) for starts in ((), (None,), (0,), (16,))
        )
    ]
    assert [context[start:].lstrip().startswith("Oslo") for start in marked] == [True] * 4
    assert [start > 10 for start in marked] == [False, False, False, True]


@pytest.mark.parametrize("kind", KINDS)
def test_a_question_without_an_answer_marks_the_word_behind_its_text(tokenizers: dict[str, Any], kind: str) -> None:
    reader = make_reader("question_answering", ("unanswerable",), tokenizers[kind], kind)
    for example, answer in ((ASKED, "Oslo"), (QuestionAnswer("Why?", (), ASKED.context), "unanswerable")):
        row = reader.encode(example)
        assert reader.answer(row, row.label_ids_T[row.marked_T].tolist()) == answer


REFUSED: list[tuple[str, Example, str]] = [
    ("sequence_classification", LabelledText("x", "left"), "supervision.label_unseen"),
    ("token_classification", EntityText("to Oslo", (Span(3, 7, "person"),)), "supervision.label_unseen"),
    ("token_classification", EntityText("to Oslo", (Span(3, 5, "city"),)), "supervision.entity_cuts_word"),
    (
        "token_classification",
        EntityText("to new york", (Span(3, 11, "city"), Span(7, 11, "city"))),
        "supervision.entities_overlap",
    ),
    ("question_answering", QuestionAnswer("q", ("Oslo",)), "supervision.no_context"),
    ("question_answering", QuestionAnswer("q", ("Rome",), "to Oslo"), "supervision.answer_not_in_context"),
    ("question_answering", QuestionAnswer("q", ("Oslo",), "to Oslo", (2,)), "supervision.answer_not_in_context"),
    ("question_answering", QuestionAnswer("q", (), "to Oslo"), "supervision.answer_not_in_context"),
]


@pytest.mark.parametrize(("objective", "example", "code"), REFUSED, ids=[case[2] for case in REFUSED])
def test_a_row_whose_label_cannot_be_put_on_tokens_is_named(
    tokenizers: dict[str, Any], tmp_path: Path, objective: str, example: Example, code: str
) -> None:
    good = ROWS[objective][1][0]
    with pytest.raises(SupervisionError) as caught:
        stored(objective, "encoder", tokenizers["encoder"], tmp_path, [good, example])
    assert caught.value.code == "supervision.rows"
    (problem,) = caught.value.problems
    assert (problem.code, problem.place) == (code, "rows.jsonl:2")
    assert problem.hint
    assert not (tmp_path / "store").exists()
    (tmp_path / "skipping").mkdir()
    store = stored(
        objective, "encoder", tokenizers["encoder"], tmp_path / "skipping", [good, example], on_bad_rows="skip"
    )
    assert (len(store), store.facts["examples"], store.facts["unusable"]) == (1, 2, 1)
    (first,) = store.facts["unusable_first"]
    assert first.startswith("rows.jsonl:2 (")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("objective", ROWS)
def test_a_long_row_is_refused_skipped_or_cut_as_asked(
    tokenizers: dict[str, Any], tmp_path: Path, objective: str, kind: str
) -> None:
    stores = {}
    for policy in ("refuse", "skip", "truncate"):
        (tmp_path / policy).mkdir()
        stores[policy] = stored(
            objective,
            kind,
            tokenizers[kind],
            tmp_path / policy,
            ROWS[objective][1],
            max_length=30,
            on_long_rows=policy,
        )
    assert [len(stores[policy]) for policy in ("refuse", "skip")] == [2, 1]
    assert stores["refuse"].notes_B[1] & Note.TOO_LONG
    assert stores["skip"].facts["skipped_first"] == ["rows.jsonl:2"]
    cut = stores["truncate"]
    if objective == "question_answering":
        assert (len(cut), cut.facts["skipped"]) == (1, 1), "the answer stood in what is cut away"
        return
    assert cut.notes_B[1] & Note.CUT
    row = cut[1]
    assert len(row.token_ids_T) == 30
    whole = stores["refuse"][1]
    closing = 1 if kind == "encoder" else 0
    assert row.token_ids_T[: 30 - closing].tolist() == whole.token_ids_T[: 30 - closing].tolist()
    if closing:
        assert row.token_ids_T[-1] == whole.token_ids_T[-1]
    assert row.label_ids_T is not None
    if objective == "sequence_classification":
        assert row.label_ids_T[row.trained_T].tolist() == [1], "the label of a text outlives the cut"
    else:
        assert cut.notes_B[1] & Note.TRAINED_LOST


def test_what_is_read_and_what_is_written_stand_behind_one_another(tokenizers: dict[str, Any], tmp_path: Path) -> None:
    tokenizer, task = tokenizers["encoder_decoder"], task_for("sequence_classification", tmp_path)
    examples = [(Place("rows.jsonl", 1), LabelledText("short", "up"))]
    store = tokenize_seq2seq(examples, task, tokenizer, tmp_path / "store", max_length=512)
    row = store[0]
    assert row.token_ids_T[row.trained_T].tolist() == tokenizer("up")["input_ids"]
    read = tokenizer.decode(row.token_ids_T[~row.trained_T])
    assert "short" in read
    assert read.endswith("</s>")
    for policy, left in (("refuse", 1), ("skip", 0), ("truncate", 1)):
        folder = tmp_path / policy
        cut = tokenize_seq2seq(examples, task, tokenizer, folder, max_length=8, on_long_rows=policy)
        assert len(cut) == left
    row = cut[0]
    assert (~row.trained_T).sum() == 8
    assert row.token_ids_T[7] == tokenizer.eos_token_id


def test_words_of_a_file_keep_their_own_borders() -> None:
    tags = ("O", "B-city", "I-city", "O")
    own = EntityText("in New- York now!", (), ("in", "New-", "York", "now!"), tags)
    words = tagged_words(own)
    assert [own.text[word.start : word.end] for word in words] == ["in", "New-", "York", "now!"]
    assert [word.tag for word in words] == list(tags)
    assert tag_labels(("city",)) == ("O", "B-city", "I-city")


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        (("B-x", "I-x", "O"), ["a b"]),
        (("B-x", "B-x", "O"), ["a", "b"]),
        (("O", "I-x", "I-x"), ["b c"]),
        (("B-x", "I-y", "I-x"), ["a", "b", "c"]),
        (("O", "O", "O"), []),
    ],
)
def test_tags_spell_entities_even_where_they_are_out_of_order(tags: tuple[str, ...], found: list[str]) -> None:
    assert [one["text"] for one in entities_of("a b c", [(0, 1), (2, 3), (4, 5)], tags)] == found
