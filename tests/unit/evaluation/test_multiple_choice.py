from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import FAMILIES, tiny_model_folder

from tunesmith.errors import DataError, Stopped
from tunesmith.evaluation.metrics import compare_paired
from tunesmith.evaluation.multiple_choice import Scoring, answers_of, log_likelihoods, prompt_of, score_question
from tunesmith.evaluation.perturb import PERTURBATIONS
from tunesmith.evaluation.robustness import (
    ChoiceScores,
    choice_metrics,
    choice_scores_from_json,
    measure_choices,
    robustness_table,
)
from tunesmith.formats.choices import ChoiceQuestion, Choices, read_choices
from tunesmith.models.attention import ATTENTION
from tunesmith.models.load import LoadPlan, load_model, load_tokenizer

SAMPLE = Path(__file__).parents[3] / "src" / "tunesmith" / "samples" / "common_beliefs.jsonl"
QUESTIONS = read_choices(SAMPLE).questions


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model_folder("llama", tmp_path_factory.mktemp("tiny"), max_position_embeddings=1024)


@pytest.fixture(scope="module")
def scoring(folder):
    return Scoring(load_tokenizer(folder), 1024, packed=True)


@pytest.fixture(scope="module")
def model(folder):
    return load_model(LoadPlan(folder))


def alone(model, tokenizer, question, answer):
    """The log likelihood of an answer by one plain forward of its whole text."""
    prompt = tokenizer.encode(prompt_of(question))
    whole = tokenizer.encode(f"{prompt_of(question)} {answer}")
    with torch.inference_mode():
        logits_T_V = model(torch.tensor([whole])).logits[0, :-1].double().log_softmax(-1)
    return sum(logits_T_V[at - 1, whole[at]].item() for at in range(len(prompt), len(whole)))


@pytest.mark.parametrize("family", FAMILIES)
def test_likelihoods_are_those_of_whole_texts_whatever_is_shared(tmp_path, family):
    folder = tiny_model_folder(family, tmp_path, max_position_embeddings=1024)
    tokenizer, questions = load_tokenizer(folder), QUESTIONS[:3]
    plain = load_model(LoadPlan(folder, attention="eager"))
    expected = [{text: alone(plain, tokenizer, one, text) for text in answers_of(one)} for one in questions]
    packed = load_model(LoadPlan(folder, attention=ATTENTION))
    for model, scoring in (
        (packed, Scoring(tokenizer, None, packed=True)),
        (packed, Scoring(tokenizer, None, packed=True, tokens_per_pack=1)),
        (plain, Scoring(tokenizer, None, packed=False)),
    ):
        found = log_likelihoods(model, questions, scoring)
        for mine, wanted in zip(found, expected, strict=True):
            assert mine == pytest.approx(wanted, rel=1e-4)


def test_mc1_and_mc2_are_truthfulqas():
    question = ChoiceQuestion(
        "q:1",
        "?",
        {"mc1": Choices(("a", "b"), (True, False)), "mc2": Choices(("a", "c", "b"), (True, True, False))},
    )
    likelihoods = {"a": np.log(0.1), "b": np.log(0.2), "c": np.log(0.3)}
    assert score_question(question, likelihoods) == pytest.approx({"mc1": 0.0, "mc2": 0.4 / 0.6})
    # Answers that no floating-point number can hold the probability of still compare.
    assert score_question(question, {"a": -5000.0, "b": -5001.0, "c": -9000.0}) == pytest.approx(
        {"mc1": 1.0, "mc2": 1 / (1 + np.exp(-1))}
    )


def test_accuracy_by_length_prefers_the_likelier_character():
    question = ChoiceQuestion("q:1", "?", {"choice": Choices(("short", "a much longer answer"), (False, True))})
    assert score_question(question, {"short": -5.0, "a much longer answer": -10.0}) == {
        "choice_accuracy": 0.0,
        "choice_accuracy_normalised": 1.0,
    }


def test_a_question_that_does_not_fit_is_refused_and_a_stop_is_heard(model, scoring):
    with pytest.raises(DataError, match=r"common_beliefs.jsonl:1: .* does not fit"):
        log_likelihoods(model, QUESTIONS[:2], replace(scoring, context_length=50))
    with pytest.raises(Stopped):
        log_likelihoods(model, QUESTIONS[:2], scoring, should_stop=lambda: True)


def test_the_worst_way_of_asking_counts_for_each_question(model, scoring):
    seen = []
    found = measure_choices(
        model, QUESTIONS[:6], scoring, robustness=True, seed=3, on_progress=lambda *done: seen.append(done)
    )
    plain = measure_choices(model, QUESTIONS[:6], scoring, robustness=False, seed=3)
    assert [dict(one) for one in found.scores_B] == [pytest.approx(one, abs=1e-4) for one in plain.scores_B]
    assert seen[-1][0] == seen[-1][1] > 6
    assert tuple(found.perturbed_B) == tuple(PERTURBATIONS)
    metrics, table = choice_metrics(found, 0), robustness_table(found)
    assert list(metrics) == ["mc1", "mc2", "mc1_worst_case", "mc2_worst_case"]
    for name in ("mc1", "mc2"):
        by_hand = [
            min([one[name], *(kind[at][name] for kind in found.perturbed_B.values() if kind[at] is not None)])
            for at, one in enumerate(found.scores_B)
        ]
        assert metrics[f"{name}_worst_case"]["value"] == pytest.approx(sum(by_hand) / 6)
        assert all(metrics[f"{name}_worst_case"]["value"] <= line[name] + 1e-12 for line in table)
    assert [line["asked"] for line in table] == ["as_written", *PERTURBATIONS, "worst_case"]
    assert next(line for line in table if line["asked"] == "typos")["changed"] == 6
    again = choice_scores_from_json(json.loads(json.dumps(found.to_json())))
    assert choice_metrics(again, 0) == metrics
    assert again.tokens_read == found.tokens_read > plain.tokens_read > 0
    assert robustness_table(plain) == []


def test_scores_of_two_systems_are_compared_question_by_question():
    before = ChoiceScores(tuple({"mc1": 0.0} for _ in range(12)), {}, ())
    after = ChoiceScores(tuple({"mc1": float(at > 1)} for at in range(12)), {}, ())
    found = compare_paired("mc1", before.rows("mc1"), after.rows("mc1"))
    assert found["decided"]
    assert found["difference"] == pytest.approx(10 / 12)


def test_the_bundled_questions_say_what_is_true_first_and_twice():
    assert len(QUESTIONS) == 30
    for question in QUESTIONS:
        assert question.targets["mc1"].true[0]
        assert sum(question.targets["mc2"].true) == 2
