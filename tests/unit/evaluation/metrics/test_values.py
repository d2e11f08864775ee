"""Metric values against the libraries that own them, and the rules written in this project."""

from __future__ import annotations

import json
import random
import warnings
from decimal import Decimal
from typing import Any

import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import f1_score as seqeval_f1
from sklearn.metrics import accuracy_score, f1_score

from tunesmith.errors import UsageError
from tunesmith.evaluation.metrics import METRICS, compare_paired, details, measure, score
from tunesmith.evaluation.metrics.entities import parse_spans
from tunesmith.evaluation.metrics.exact_match import normalise_answer, token_f1
from tunesmith.evaluation.metrics.final_number import final_number
from tunesmith.evaluation.metrics.json_fields import parse_json, same_value
from tunesmith.evaluation.metrics.text_overlap import common_subsequence_length, rouge_l

LABELS = ["north", "south", "east", "west", "up"]
WORDS = [
    "the",
    "small",
    "red",
    "fox",
    "jumped",
    "over",
    "a",
    "sleeping",
    "dog",
    ",",
    "and",
    "then",
    "it",
    "ran",
    "home",
    ".",
]


def value(metric: str, predictions: list, references: list, labels: list[str] | None = None) -> float:
    return score([metric], predictions, references, labels or [])[metric]["value"]


def noisy(random_: random.Random, sentences: list[str], kept: float) -> list[str]:
    return [
        " ".join(word if random_.random() < kept else random_.choice(WORDS) for word in sentence.split())
        for sentence in sentences
    ]


def sentences(random_: random.Random, count: int) -> list[str]:
    return [" ".join(random_.choices(WORDS, k=random_.randint(3, 18))) for _ in range(count)]


@pytest.mark.parametrize("seed", range(5))
def test_accuracy_and_macro_f1_equal_sklearn(seed: int) -> None:
    random_ = random.Random(seed)
    references = random_.choices(LABELS[:4], k=60)
    predictions = [r if random_.random() < 0.6 else random_.choice([*LABELS, "nowhere"]) for r in references]
    assert value("accuracy", predictions, references, LABELS) == pytest.approx(accuracy_score(references, predictions))
    expected = f1_score(references, predictions, labels=sorted(set(references)), average="macro", zero_division=0)
    assert value("macro_f1", predictions, references, LABELS) == pytest.approx(expected)


def test_labels_are_compared_without_case_and_space_and_unknown_answers_are_invalid() -> None:
    predictions, references = [" North\n", "SOUTH", "sideways", ""], ["north", "South", "east", "west"]
    assert value("accuracy", predictions, references, LABELS) == 0.5
    found = details(["accuracy", "macro_f1"], predictions, references, LABELS)
    assert found["invalid"] == 2
    assert found["format_valid"] == 0.5
    assert {row["label"]: row["rows"] for row in found["per_class"]}["up"] == 0
    assert sum(map(sum, found["confusion"]["counts"])) == 4
    assert sum(line[-1] for line in found["confusion"]["counts"]) == 2


def test_labels_that_differ_in_case_alone_stay_apart() -> None:
    assert value("accuracy", ["us", "US"], ["US", "US"], ["us", "US"]) == 0.5


def test_of_many_classes_the_most_confused_are_counted() -> None:
    labels = [f"class {number:02}" for number in range(40)]
    assert "confusion" not in details(["accuracy"], labels, labels, labels)
    # Classes 30 and 31 are taken for each other most, then 2 and 5; class 30 once for one that is no label.
    references = [*labels, *["class 30"] * 4, *["class 05"] * 2, "class 30"]
    answers = [*labels, *["class 31"] * 4, *["class 02"] * 2, "nothing"]
    found = details(["accuracy"], answers, references, labels)
    assert len(found["per_class"]) == 40
    assert found["confusion"] == {
        "labels": ["class 02", "class 05", "class 30", "class 31"],
        "counts": [[1, 0, 0, 0, 0], [2, 1, 0, 0, 0], [0, 0, 1, 4, 1], [0, 0, 0, 1, 0]],
        "others": [0, 0, 0, 0],
        "classes": 40,
    }
    everywhere = details(["accuracy"], labels[1:] + labels[:1], labels, labels)["confusion"]
    assert len(everywhere["labels"]) <= 20
    assert sum(map(sum, everywhere["counts"])) + sum(everywhere["others"]) == len(everywhere["labels"])


@pytest.mark.parametrize("seed", range(4))
def test_bleu_and_chrf_equal_sacrebleu(seed: int) -> None:
    random_ = random.Random(seed)
    references = sentences(random_, 40)
    predictions = [*noisy(random_, references[:-1], [0.05, 0.5, 0.8, 1.0][seed]), ""]
    bleu = sacrebleu.corpus_bleu(predictions, [references]).score
    chrf = sacrebleu.corpus_chrf(predictions, [references]).score
    assert value("bleu", predictions, references) == pytest.approx(bleu)
    assert value("chrf", predictions, references) == pytest.approx(chrf)


@pytest.mark.parametrize(
    ("answer", "reference", "tokenizer"),
    [
        ("今天天气很好我们去公园跑步。", "今天天气很好我们去公园散步。", "zh"),
        ("今日は天気がいいので公園を走ります。", "今日は天気がいいので公園を歩きます。", "char"),
        ("วันนี้อากาศดีเราจึงไปวิ่งที่สวน", "วันนี้อากาศดีเราจึงไปเดินที่สวน", "char"),
        ("오늘은 날씨가 좋아서 공원을 달립니다.", "오늘은 날씨가 좋아서 공원을 걷습니다.", "char"),
        ("The word 東京 is the name of a big town.", "The word 東京 is the name of a large town.", "13a"),
    ],
)
def test_bleu_counts_the_words_of_the_language(
    monkeypatch: pytest.MonkeyPatch, answer: str, reference: str, tokenizer: str
) -> None:
    # As on a machine without the dictionaries for Japanese and Korean.
    monkeypatch.setattr("tunesmith.evaluation.metrics.scripts.find_spec", lambda name: None)
    found = value("bleu", [answer] * 3, [reference] * 3)
    assert found == pytest.approx(sacrebleu.corpus_bleu([answer] * 3, [[reference] * 3], tokenize=tokenizer).score)
    assert found > 40
    assert f"|tok:{tokenizer}|" in details(["bleu"], [answer], [reference])["signatures"]["bleu"]


def test_bleu_and_chrf_take_several_references_as_sacrebleu_does() -> None:
    random_ = random.Random(3)
    first, second = sentences(random_, 30), sentences(random_, 30)
    predictions = noisy(random_, second, 0.6)
    both = [list(pair) for pair in zip(first, second, strict=True)]
    bleu = sacrebleu.corpus_bleu(predictions, [first, second]).score
    chrf = sacrebleu.corpus_chrf(predictions, [first, second]).score
    assert value("bleu", predictions, both) == pytest.approx(bleu)
    assert value("chrf", predictions, both) == pytest.approx(chrf)
    signatures = details(["bleu"], predictions, both)["signatures"]
    assert signatures["bleu"].startswith("nrefs:2|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert "nc:6|nw:0" in signatures["chrf"]


def test_text_in_other_scripts_scores_fully_against_itself() -> None:
    texts = ["东京很大", "Это дом", "🙂 ok"]
    assert value("chrf", texts, texts) == pytest.approx(100)


@pytest.mark.parametrize("seed", range(5))
def test_tag_f1_equals_seqeval(seed: int) -> None:
    random_ = random.Random(seed)
    tags = ["O", "O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    references = [random_.choices(tags, k=random_.randint(1, 12)) for _ in range(30)]
    predictions = [[t if random_.random() < 0.8 else random_.choice(tags) for t in row] for row in references]
    assert value("tag_f1", predictions, references) == pytest.approx(seqeval_f1(references, predictions))
    joined = [" ".join(row) for row in predictions]
    assert value("tag_f1", joined, references) == pytest.approx(seqeval_f1(references, predictions))


def test_tags_must_fit_their_tokens() -> None:
    with pytest.raises(UsageError) as error:
        score(["tag_f1"], [["O"]], [["O", "O"]])
    assert error.value.code == "metrics.tags"


def test_generated_spans_match_as_multisets() -> None:
    gold = [{"text": "Ada", "label": "PER"}, {"text": "Ada", "label": "PER"}, {"text": "Rome", "label": "LOC"}]
    answers = ['[{"text":"Ada","label":"per"},{"text":"Rome","label":"ORG"}]', "no list", "[]"]
    references = [gold, gold[:1], []]
    assert value("entity_precision", answers, references) == pytest.approx(1 / 2)
    assert value("entity_recall", answers, references) == pytest.approx(1 / 4)
    assert value("entity_f1", answers, references) == pytest.approx(2 / 6)
    assert measure("entity_f1", answers, references).scores.tolist() == [pytest.approx(2 / 5), 0, 1]
    found = details(["entity_f1"], answers, references)
    assert found["invalid"] == 1
    assert {row["label"]: row["rows"] for row in found["per_label"]} == {"loc": 1, "org": 0, "per": 3}


def test_labels_that_differ_in_case_alone_are_different() -> None:
    gold = [[{"text": "May", "label": "month"}, {"text": "May", "label": "MONTH"}]]
    answers = ['[{"text": "May", "label": "month"}, {"text": "May", "label": "month"}]']
    assert value("entity_f1", answers, gold) == pytest.approx(1 / 2)
    assert value("entity_f1", answers, [gold[0][:1]], ["month", "MONTH"]) == pytest.approx(2 / 3)
    assert value("entity_f1", ['[{"text": "May", "label": "Month"}]'], [gold[0][:1]]) == 1


def test_entities_with_places_are_told_apart_by_them() -> None:
    gold = [{"text": "Paris", "label": "LOC", "start": start, "end": start + 5} for start in (5, 14)]
    answer = json.dumps([gold[0], {**gold[0], "start": 0}])
    assert value("tag_f1", [answer], [gold]) == pytest.approx(1 / 2)
    assert value("entity_f1", [answer], [gold]) == 1
    assert value("tag_f1", [json.dumps(gold), "[]"], [gold, ()]) == 1
    # Text that a model writes has no places.
    assert value("tag_f1", ["no list"], [gold]) == 0


def test_span_references_may_be_json_texts() -> None:
    text = '[{"text": "Rome", "label": "LOC"}]'
    assert value("entity_f1", [text], [text]) == 1
    assert parse_spans('[{"text": 1, "label": "LOC"}]') is None


def test_json_metrics_count_whole_objects_fields_and_validity() -> None:
    references = [{"queue": "billing", "urgent": True}] * 4
    predictions = [
        '{"urgent": true, "queue": "billing"}',
        '{"queue": "billing", "urgent": 1}',
        '{"queue": "billing", "urgent": true, "more": 0}',
        "queue: billing",
    ]
    assert value("json_exact", predictions, references) == 1 / 4
    assert value("json_fields", predictions, references) == 5 / 8
    assert value("json_valid", predictions, references) == 3 / 4
    fields = {row["field"]: row["accuracy"] for row in details(["json_exact"], predictions, references)["per_field"]}
    assert fields == {"queue": 3 / 4, "urgent": 2 / 4}
    texts = [json.dumps(reference) for reference in references]
    assert value("json_fields", predictions, texts) == 5 / 8


@pytest.mark.parametrize("text", ["NaN", '{"a": NaN}', "[" * 100_000, "9" * 5000, "", "{'a': 1}"])
def test_what_is_not_json_is_not_parsed_and_does_not_crash(text: str) -> None:
    assert parse_json(text) is None


def test_json_numbers_are_equal_by_value_but_not_to_booleans() -> None:
    assert same_value({"a": [1, {"b": 2.0}]}, {"a": [1.0, {"b": 2}]})
    assert not same_value({"a": 1}, {"a": True})
    assert not same_value([1], [1, 2])


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 3 + 4 = 7\n#### 7", "7"),
        ("#### 1,234.50 and then 9", "1234.50"),
        ("#### -5", "-5"),
        ("#### $18", "18"),
        ("the answer is 12.", "12"),
        ("10-3", "3"),
        ("it costs $2,000, I think", "2000"),
        ("a half is .5", "0.5"),
        ("#### none, but 3 before", "3"),
        ("no number", None),
        ("1,23", "23"),
    ],
)
def test_final_number(text: str, number: str | None) -> None:
    assert final_number(text) == (None if number is None else Decimal(number))


def test_final_number_counts_rows_without_a_number() -> None:
    predictions, references = ["#### 7.0", "seven", "8"], ["5 + 2 #### 7", "#### 7", "?"]
    assert value("final_number", predictions, references) == pytest.approx(1 / 3)
    found = details(["final_number"], predictions, references)
    assert (found["invalid"], found["references_without_number"]) == (1, 1)


def test_squad_rules_and_several_accepted_answers() -> None:
    assert normalise_answer("  The  U.S.A., an idea! ") == "usa idea"
    assert value("exact_match", ["the Eiffel Tower."], [["Paris", "Eiffel tower"]]) == 1
    assert token_f1("the big red car", "red car") == pytest.approx(0.8)
    assert token_f1("the", "a") == 1
    assert token_f1("the", "car") == 0
    assert value("token_f1", ["red car"], [["blue boat", "red car"]]) == 1


@given(st.lists(st.sampled_from("abcd"), max_size=12), st.lists(st.sampled_from("abcd"), max_size=12))
@settings(max_examples=150, deadline=None)
def test_common_subsequence_equals_the_plain_table(left: list[str], right: list[str]) -> None:
    table = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            table[i + 1][j + 1] = table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
    assert common_subsequence_length(left, right) == table[-1][-1]


def test_rouge_l_is_the_f1_of_the_common_subsequence() -> None:
    assert rouge_l("Police killed the gunman", "police kill the gunman") == pytest.approx(0.75)
    assert rouge_l("", "...") == 1
    assert rouge_l("", "word") == 0


REFERENCES: dict[str, list] = {
    "labels": ["north", "south", "east", "west"],
    "answers": [["a red fox", "fox"], "dog", "it ran", "home"],
    "text": ["the red fox ran home .", "a dog", "it jumped over", "sleeping fox"],
    "number": ["#### 1", "#### 2", "#### 3", "#### 4"],
    "json": ['{"a": 1}', '{"a": 2, "b": 3}', '{"c": null}', '{"a": 1}'],
    "spans": ["[]", '[{"text": "x", "label": "A"}]', '[{"text": "y", "label": "B"}]', "[]"],
    "tags": ["O", "B-A I-A", "O B-B", "O"],
    "calls": [({"name": name, "arguments": {"a": [1]}},) for name in ("f", "g", "h", "k")],
    "sql": [
        {"sql": f"SELECT {column} FROM t", "script": "CREATE TABLE t (a, b, c, d); INSERT INTO t VALUES (1, 2, 3, 4);"}
        for column in "abcd"
    ],
    "tune": ["X:1\nM:2/4\nL:1/4\nK:D\nDE|", "X:2\nM:2/4\nL:1/4\nK:D\nD2|", "X:3\nK:D\nD|", "X:4\nK:G\nGA|"],
}


def right_answer(needs: str, reference: Any) -> str:
    """An answer that the reference calls right."""
    if needs == "calls":
        return f"[{reference[0]['name']}(a=1)]"
    if needs == "sql":
        return str(reference["sql"])
    return reference[0] if isinstance(reference, list) else reference


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if metric.measure])
@given(order=st.permutations(range(4)), rotation=st.integers(0, 3))
@settings(max_examples=15, deadline=None)
def test_value_does_not_depend_on_the_order_of_rows(name: str, order: list[int], rotation: int) -> None:
    references = REFERENCES[METRICS[name].needs]
    first = [right_answer(METRICS[name].needs, reference) for reference in references]
    predictions = first if name == "tag_f1" else [first[(row + rotation) % 4] for row in range(4)]
    shuffled = [predictions[row] for row in order], [references[row] for row in order]
    assert value(name, *shuffled) == pytest.approx(value(name, predictions, references))


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if metric.measure])
def test_right_answers_score_fully_and_equal_systems_are_undecided(name: str) -> None:
    references = REFERENCES[METRICS[name].needs] * 5
    predictions = [right_answer(METRICS[name].needs, reference) for reference in references]
    rows = measure(name, predictions, references)
    full = 100 if METRICS[name].unit == "points" else 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert value(name, predictions, references) == pytest.approx(full)
        verdict = compare_paired(name, rows, rows)
    assert (verdict["difference"], verdict["low"], verdict["high"], verdict["decided"]) == (0, 0, 0, False)
    assert verdict["text"].startswith("undecided")


def test_unknown_metrics_and_unfit_rows_are_refused() -> None:
    with pytest.raises(UsageError, match="did you mean accuracy") as error:
        score(["acuracy"], ["a"], ["a"])
    assert error.value.code == "metrics.unknown"
    with pytest.raises(UsageError, match="every prediction needs one reference"):
        score(["accuracy"], ["a"], [])
    with pytest.raises(UsageError, match="no rows to score"):
        score(["accuracy"], [], [])
    with pytest.raises(UsageError, match="likelihoods"):
        score(["loss"], ["a"], ["a"])
    with pytest.raises(UsageError, match="not a JSON object"):
        score(["json_exact"], ["{}"], ["[]"])
