"""Questions asked otherwise: each way and the worst case, by the metric's own way to sum up rows."""

from __future__ import annotations

from typing import Any

import pytest

from tunesmith.evaluation.metrics import score
from tunesmith.evaluation.otherwise import ways_table, worst_name, worst_rows

TABLE = ({"name": "t", "columns": ["n"], "rows": [[1], [2]]},)
NO_TABLE: dict[str, Any] = {"sql": "SELECT n FROM t", "script": None, "tables": ()}
WITH_TABLE = {**NO_TABLE, "tables": TABLE}
RIGHT, WRONG = "SELECT n FROM t", "SELECT 1"


def values(metric: str, answers: list[str], otherwise: list[str | None], references: list[Any]) -> dict[str, float]:
    table = ways_table(metric, answers, {"typos": otherwise}, references, ())
    return {line["asked"]: line[metric] for line in table}


def test_rows_that_cannot_be_run_do_not_count() -> None:
    references = [*[NO_TABLE] * 8, WITH_TABLE, WITH_TABLE]
    answers = [RIGHT] * 10
    assert score(["sql_execution"], answers, references)["sql_execution"]["value"] == 1
    otherwise = [None] * 9 + [WRONG]
    found = values("sql_execution", answers, otherwise, references)
    assert found == {"as_written": 1.0, "typos": 0.5, "worst_case": 0.5}


def test_objects_count_by_their_fields() -> None:
    references = ['{"a": 1, "b": 2, "c": 3}', '{"a": 1}']
    found = values("json_fields", ['{"a": 1, "b": 2}', '{"a": 1}'], [None, '{"a": 2}'], references)
    assert found == {"as_written": 0.75, "typos": 0.5, "worst_case": 0.5}


def test_the_worst_case_is_not_above_any_way() -> None:
    def tune(right: int, wrong: int) -> str:
        return "X:1\nM:2/4\nL:1/4\nK:C\n" + "CC|" * right + "CCC|" * wrong

    # A tune that is refused has one bar, which does not fit: at their worst these are 9 of 11 bars.
    answers, faulty = [tune(1, 18), tune(9, 1)], "no tune"
    found = values("abc_bars", answers, [faulty, None], ["", ""])
    assert found["worst_case"] <= min(found["as_written"], found["typos"])


def test_a_mean_of_rows_is_the_mean_of_the_worst() -> None:
    rows = worst_rows(
        "exact_match", ["a", "b", "x"], {"typos": ["a", "x", None], "spacing": ["y", None, "c"]}, "abc", ()
    )
    assert rows.scores.tolist() == [0, 0, 0]
    assert worst_name("exact_match") == "exact_match_worst_case"
    found = values("exact_match", ["a", "b", "x"], ["a", "x", None], ["a", "b", "c"])
    assert found == {
        "as_written": pytest.approx(2 / 3),
        "typos": pytest.approx(1 / 3),
        "worst_case": pytest.approx(1 / 3),
    }
