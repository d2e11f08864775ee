"""Metrics of pairs, from how likely both answers are."""

from __future__ import annotations

import pytest
from sklearn.metrics import roc_auc_score

from tunesmith.errors import UsageError
from tunesmith.evaluation.metrics import compare_paired, measure, pair_rows, summarise

SCORES = ((-1.0, -2.0), (-3.0, -1.0), (-0.5, -0.5), (-1.0, -4.0))


def test_values_are_shares_and_means() -> None:
    assert summarise("pair_accuracy", pair_rows("pair_accuracy", SCORES))["value"] == pytest.approx(0.5)
    margin = summarise("margin", pair_rows("margin", SCORES))
    assert margin["value"] == pytest.approx((1 - 2 + 0 + 3) / 4)
    assert margin["low"] < margin["value"] < margin["high"]


def test_a_verdict_compares_pair_by_pair() -> None:
    before, after = (pair_rows("margin", [(score, -2.0)] * 12) for score in (-2.5, -1.0))
    found = compare_paired("margin", before, after)
    assert (found["decided"], found["difference"]) == (True, pytest.approx(1.5))


def test_rated_answers_are_compared_with_all_of_the_other_kind() -> None:
    wanted, unwanted = [-1.0, -2.0, -0.5], [-1.5, -2.0, -3.0, -0.2]
    rated = [(one, None) for one in wanted] + [(None, one) for one in unwanted]
    truth = [1] * len(wanted) + [0] * len(unwanted)
    found = summarise("wanted_likelier", pair_rows("wanted_likelier", rated))
    assert found["value"] == pytest.approx(roc_auc_score(truth, wanted + unwanted))
    assert found["low"] < found["value"] < found["high"]
    margin = summarise("wanted_margin", pair_rows("wanted_margin", rated))
    assert margin["value"] == pytest.approx(sum(wanted) / 3 - sum(unwanted) / 4)
    with pytest.raises(UsageError):
        pair_rows("wanted_likelier", rated[:3])


def test_what_has_no_pairs_is_refused() -> None:
    for call, code in (
        (lambda: pair_rows("margin", ()), "metrics.no_rows"),
        (lambda: pair_rows("accuracy", SCORES), "metrics.not_pairs"),
        (lambda: measure("margin", ["a"], ["a"]), "metrics.needs_losses"),
    ):
        with pytest.raises(UsageError) as caught:
            call()
        assert caught.value.code == code
