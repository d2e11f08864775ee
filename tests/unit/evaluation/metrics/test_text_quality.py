"""How varied, long and well formed free texts are, and how much of them is copied."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as some

from tunesmith.evaluation.metrics import details, score
from tunesmith.evaluation.metrics.memorisation import Copied, copied


@pytest.mark.parametrize(("ngram_words", "expected"), [(1, 2 / 5), (2, 2 / 4), (3, 2 / 3)])
def test_distinct_words_pairs_and_triples(ngram_words: int, expected: float) -> None:
    name = f"distinct_{ngram_words}"
    assert score([name], ["a b a b a"], ["x"])[name]["value"] == pytest.approx(expected)
    too_short = " ".join("a" * (ngram_words - 1))
    assert score([name], ["", too_short], ["x", "y"])[name]["value"] == 0


def test_faults_and_lengths_of_chat_answers() -> None:
    answers = ["Fine, thank you.", "", "so it goes " * 6, "Yes.\nuser: and you?"]
    found = details(["rouge_l"], answers, ["Fine."] * 4)
    assert found["invalid"] == 3
    assert found["format_valid"] == 0.25
    assert {fault["fault"] for fault in found["faults"]} == {"empty", "ends in a loop", "marks of a turn"}
    assert found["lengths"] == {"answer_words": 6.25, "reference_words": 1.0, "ratio": 6.25}


@given(some.lists(some.text(max_size=80), min_size=1, max_size=4))
def test_any_answer_is_described(answers: list[str]) -> None:
    found = details(["rouge_l", "distinct_2"], answers, ["a text"] * len(answers))
    assert 0 <= found["format_valid"] <= 1


def test_copied_stretches() -> None:
    texts = ["one two three four five six", "seven eight"]
    answers = ["zero one two three four nine", "six seven eight", "one two"]
    assert copied(answers, texts, 3) == [Copied(2, 4, 4), Copied(0, 1, 0), Copied(0, 0, 0)]
    assert copied(["six seven eight"], ["six seven eight"], 3) == [Copied(1, 1, 3)]


def test_training_texts_are_not_kept() -> None:
    alive: list[int] = []

    def texts() -> Iterator[str]:
        for number in range(50):
            text = f"text number {number} of many texts that nobody will ever write again in an answer"
            yield text
            alive.append(sys.getrefcount(text))

    copied(["nothing of this is in any of the texts above, not a single word run"], texts())
    assert max(alive[:-1]) <= alive[0]
