from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.evaluation.perturb import PERTURBATIONS, perturb

KINDS = tuple(PERTURBATIONS)
WORDS = (
    "What",
    "is",
    "do not",
    "the",
    "biggest",
    "country",
    "7",
    "3.5",
    "B2B",
    "cannot",
    "É",
    "people",
    "1984?",
    "it's",
)
SENTENCES = st.one_of(st.text(min_size=1, max_size=60), st.lists(st.sampled_from(WORDS), min_size=1).map(" ".join))


def numbers(text):
    return re.findall(r"\d+(?:[.,]\d+)*", text)


@settings(max_examples=300, deadline=None)
@given(SENTENCES, st.sampled_from(KINDS), st.integers(0, 5))
def test_a_change_is_repeatable_and_keeps_numbers_and_something_to_read(text, kind, seed):
    changed = perturb(text, kind, seed)
    assert changed == perturb(text, kind, seed)
    assert numbers(changed) == numbers(text)
    assert bool(changed.strip()) == bool(text.strip())


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_changes_a_question_that_offers_it_something(kind):
    question = "What is the biggest country, and do people often need a doctor there?"
    assert perturb(question, kind, 0) != question
    assert perturb("7", kind, 0) == "7"


def test_seeds_slip_in_different_places():
    question = "Which countries border the Mediterranean between Portugal and Greece?"
    assert len({perturb(question, "typos", seed) for seed in range(8)}) > 4


@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [
        ("contractions", "What is it? It is not and you cannot.", "What's it? It's not and you can't."),
        ("contractions", "He doesn't.", "He does not."),
        ("lower_case", "Who Was NATO's 1st?", "who was nato's 1st?"),
        ("synonyms", "The biggest movie", "The largest film"),
        ("synonyms", "Children are sick.", "Kids are ill."),
        ("synonyms", "It runs fast and quick.", "It runs fast and fast."),
        ("synonyms", "A car, an automobile, a sick man", "An automobile, a car, an ill man"),
        ("synonyms", "Is that an  entire answer to a big question?", "Is that a  whole answer to a large question?"),
        ("synonyms", "What happens to be in need of help?", "What happens to be in need of help?"),
        ("synonyms", "What happens then?", "What occurs then?"),
        ("synonyms", "Kid\u017f", "Kid\u017f"),
        ("synonyms", "Carpets begin", "Carpets start"),
        ("spacing", "Is it so?", "Is it  so ?"),
    ],
)
def test_changes_are_those_that_people_make(kind, before, after):
    found = perturb(before, kind, 0)
    assert found == after or (kind == "spacing" and re.sub(" +", " ", found) == "Is it so ?")


def test_a_typo_leaves_the_first_letter():
    for seed in range(20):
        for old, new in zip(
            ["alpha", "bravo", "charlie"], perturb("alpha bravo charlie", "typos", seed).split(), strict=True
        ):
            assert new[0] == old[0]
