"""ROUGE-L is that of the library rouge-score wherever that library reads a text: it knows ASCII letters and digits."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.evaluation.metrics.text_overlap import rouge_l

rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer")
TEXTS = st.lists(st.sampled_from(["a", "the", "Cat", "sat", "on", "mat", "3", "x1", ",", ".", "\n"]), max_size=30).map(
    " ".join
) | st.text(string.ascii_letters + string.digits + " .,!?'\n-", max_size=60)


@given(TEXTS, TEXTS)
def test_rouge_l_is_that_of_the_library(prediction: str, answer: str) -> None:
    theirs = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False).score(answer, prediction)["rougeL"].fmeasure
    has_words = any(character.isalnum() for character in prediction + answer)
    assert rouge_l(prediction, answer) == (pytest.approx(theirs) if has_words else 1.0)
