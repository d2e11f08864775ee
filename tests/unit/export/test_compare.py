"""What is said of two models that differ: divergence, ties, tokens, scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tunesmith.export.compare_scores import Scored, compare_scores
from tunesmith.export.compare_text import TextReference, TextRows, answer, compare_text, divergence
from tunesmith.export.limits import Limit, ScoreLimit
from tunesmith.export.runtime import Likeliest, likeliest_of, log_softmax

EXACT = Limit(1e-6, 0.01, "the same numbers")
ROUGH = Limit(1.0, None, "few bits")


class Table:
    """A model that says what a table says: scores of the next token by the last one."""

    def __init__(self, logits_V_V: Any) -> None:
        self.table = log_softmax(np.asarray(logits_V_V, dtype=np.float64))

    def log_probabilities(self, token_ids_T: Sequence[int], positions_L: Sequence[int]) -> Any:
        return self.table[[token_ids_T[at] for at in positions_L]]

    def likeliest(self, token_ids_T: Sequence[int], positions_L: Sequence[int]) -> Likeliest:
        return likeliest_of(self.log_probabilities(token_ids_T, positions_L))

    def continue_greedily(self, prompt_T: Sequence[int], most: int, stops: Sequence[int]) -> list[int]:
        said: list[int] = []
        last = prompt_T[-1]
        while len(said) < most:
            last = int(self.table[last].argmax())
            if last in stops:
                break
            said.append(last)
        return said

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]


def reference_of(model: Table, rows: TextRows) -> TextReference:
    from tunesmith.export.compare_text import ask_pytorch

    untyped: Any = model
    return ask_pytorch(untyped, rows)


ROWS = TextRows([([0, 1, 2], (0, 1))], [[0], [1]], ["ab"], 4, (3,))
# From each token to the next one up, by a wide margin.
STEPS = np.roll(np.eye(4) * 9, 1, axis=1)


def compared(known: Table, other: Table, limit: Limit) -> tuple[dict[str, Any], list[str]]:
    facts, problems, _ = compare_text(reference_of(known, ROWS), other, ROWS, limit)
    return facts, [problem.code for problem in problems]


def test_the_same_model_is_the_same() -> None:
    facts, problems = compared(Table(STEPS), Table(STEPS), EXACT)
    assert problems == []
    assert facts["divergence_nats"]["mean"] == pytest.approx(0, abs=1e-9)
    assert facts["greedy"] | {"prompts": 2, "same": 2, "ties": 0, "different": 0} == facts["greedy"]
    assert facts["same_likeliest_token"] == 1.0


def test_divergence_is_that_of_the_textbook_where_every_token_is_told() -> None:
    rng = np.random.default_rng(0)
    p, q = (log_softmax(rng.normal(size=(5, 50))) for _ in range(2))
    whole = (np.exp(p) * (p - q)).sum(axis=-1)
    np.testing.assert_allclose(divergence(p, likeliest_of(q)), whole, atol=1e-5)


def test_divergence_of_the_likeliest_is_never_more_than_of_all() -> None:
    rng = np.random.default_rng(0)
    p, q = (log_softmax(3 * rng.normal(size=(20, 1000))) for _ in range(2))
    whole = (np.exp(p) * (p - q)).sum(axis=-1)
    found = divergence(p, likeliest_of(q))
    assert (found <= whole + 1e-9).all()
    assert (found > 0.1 * whole).all()


def test_another_answer_is_a_problem_where_answers_must_be_the_same() -> None:
    other = STEPS.copy()
    other[1] = [9, 0, 0, 0]
    facts, problems = compared(Table(STEPS), Table(other), EXACT)
    assert problems == ["export.diverges", "export.answers"]
    assert facts["greedy"]["different"] == 2
    assert compared(Table(STEPS), Table(other), Limit(100.0, None, "few bits"))[1] == []


def test_an_answer_that_parts_at_a_tie_is_told_and_no_problem() -> None:
    tied, other = STEPS.copy(), STEPS.copy()
    tied[1, 0] = 9 - 1e-4
    other[1, 0] = 9 + 1e-4
    facts, problems = compared(Table(tied), Table(other), EXACT)
    assert problems == []
    assert (facts["greedy"]["ties"], facts["greedy"]["different"]) == (2, 0)
    wide = STEPS.copy()
    wide[1, 0] = 9 - 0.5
    facts, problems = compared(Table(wide), Table(other), Limit(10.0, 0.01, "the same numbers"))
    assert problems == ["export.answers"]


def test_an_answer_that_goes_on_where_the_other_ends_is_another_answer() -> None:
    other = STEPS.copy()
    other[2] = [0, 0, 9, 0]
    facts, _ = compared(Table(STEPS), Table(other), Limit(100.0, 0.01, "the same numbers"))
    assert facts["greedy"]["different"] == 2


def test_other_tokens_of_a_text_are_a_problem() -> None:
    class Upper(Table):
        def encode(self, text: str) -> list[int]:
            return super().encode(text.upper())

    assert compared(Table(STEPS), Upper(STEPS), EXACT)[1] == ["export.tokenizer"]


def test_probabilities_that_are_no_numbers_are_a_problem() -> None:
    broken = Table(STEPS)
    broken.table = np.full((4, 4), np.nan)
    assert "export.diverges" in compared(Table(STEPS), broken, ROUGH)[1]


def test_speed_is_told_of_what_was_written() -> None:
    rows = TextRows([], [[0] * 8] * 4, [], 20, ())
    assert (answer(Table(STEPS), rows).tokens_per_second or 0) > 0
    assert answer(Table(STEPS), TextRows([], [[0]], [], 2, ())).tokens_per_second is None


def scored(*rows: Any) -> Scored:
    return Scored([np.asarray(row, dtype=np.float32) for row in rows], 1.0)


def test_scores_are_compared_in_parts_of_their_spread() -> None:
    known, limit = scored([[1, 2, 3]], [[3, 2, 1]]), ScoreLimit(0.01, 1.0, "the same numbers", of_largest=True)
    assert compare_scores(known, scored([[1, 2, 3.001]], [[3, 2, 1]]), limit, has_labels=True)[1] == []
    facts, problems = compare_scores(known, scored([[1, 2, 3.1]], [[3, 2, 1]]), limit, has_labels=True)
    assert [one.code for one in problems] == ["export.diverges"]
    assert facts["same_labels"]["share"] == 1.0
    other = scored([[1, 4, 3]], [[3, 2, 1]])
    facts, problems = compare_scores(known, other, ScoreLimit(5.0, 1.0, "few bits"), has_labels=True)
    assert [one.code for one in problems] == ["export.answers"]
    assert facts["same_labels"]["share"] == 0.5


def test_states_are_compared_by_their_direction() -> None:
    known, limit = scored([[1.0, 0.0], [1.0, 0.2]]), ScoreLimit(9.0, 0.9, "few bits")
    assert compare_scores(known, scored([[2.0, 0.0], [2.0, 0.3]]), limit, has_labels=False)[1] == []
    problems = compare_scores(known, scored([[0.0, 1.0], [0.0, 1.0]]), limit, has_labels=False)[1]
    assert [one.code for one in problems] == ["export.diverges"]


def test_scores_that_are_no_numbers_are_a_problem() -> None:
    known, limit = scored([[1, 2]]), ScoreLimit(9.0, 0.0, "few bits")
    assert compare_scores(known, scored([[np.nan, 2]]), limit, has_labels=True)[1]
