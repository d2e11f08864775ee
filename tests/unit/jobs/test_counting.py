"""Trained parameters that a worker counts: once, and not at any price."""

from __future__ import annotations

from typing import Any

import pytest

from tunesmith.errors import ModelError, WorkerError
from tunesmith.jobs.counting import counted
from tunesmith.planner.counted import Question
from tunesmith.planner.trained import Counted
from tunesmith.recipe.techniques import PeftMethod

QUESTION = Question({"model_type": "llama"}, PeftMethod(name="osf"), "sft", 0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))


def finding(trained: int) -> Any:
    return lambda asked: Counted(asked.technique, trained)


def failing(error: Exception) -> Any:
    def count(_question: Question) -> Counted:
        raise error

    return count


def test_nothing_is_counted_where_a_formula_knows():
    assert counted(None, failing(AssertionError("a worker was started"))) is None


def test_it_is_counted_once():
    assert counted(QUESTION, finding(15040)) == Counted(QUESTION.technique, 15040)
    again = counted(QUESTION, failing(AssertionError("a worker was started again")))
    assert again == Counted(QUESTION.technique, 15040)


def test_a_worker_that_fails_costs_the_exact_number_alone_and_is_asked_again():
    found = counted(QUESTION, failing(WorkerError("the worker fell", code="worker.died")))
    assert found is not None
    assert found.trained is None
    assert "the worker fell" in (found.why or "")
    assert counted(QUESTION, finding(15040)) == Counted(QUESTION.technique, 15040)


def test_what_training_would_refuse_is_refused():
    with pytest.raises(ModelError):
        counted(QUESTION, failing(ModelError("no such layers", code="model.target")))
