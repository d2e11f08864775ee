"""Intervals: seeded, of honest width, and decided only where rows tell."""

from __future__ import annotations

import math
import random
import time

import numpy as np
import pytest

from tunesmith.errors import UsageError
from tunesmith.evaluation.metrics import METRICS, Rows, compare_paired, loss_rows, measure, score, score_losses
from tunesmith.evaluation.metrics.bootstrap import interval, resampled_sums

LABELS = [f"class {number}" for number in range(77)]


def marks(shares: list[float], rows: int, seed: int) -> list[Rows]:
    generator = np.random.default_rng(seed)
    draw = generator.random(rows)
    names = [["right" if value < share else "wrong" for value in draw] for share in shares]
    return [measure("accuracy", answers, ["right"] * rows, ["right", "wrong"]) for answers in names]


def test_the_same_seed_gives_the_same_interval() -> None:
    rows = loss_rows([1.1 * row for row in range(80)], range(1, 81))
    assert interval(METRICS["loss"], rows, 3) == interval(METRICS["loss"], rows, 3)
    assert interval(METRICS["loss"], rows, 3) != interval(METRICS["loss"], rows, 4)


def test_sums_in_pieces_are_sums_of_rows_drawn_with_replacement() -> None:
    sums = resampled_sums(np.ones((5000, 1)), seed=0, resamples=1700)
    assert sums.shape == (1700, 1)
    assert (sums == 5000).all()
    one_hot = resampled_sums(np.eye(4), seed=0, resamples=500)
    assert (one_hot.sum(axis=1) == 4).all()
    assert one_hot.max() > 1
    assert one_hot.mean(axis=0) == pytest.approx([1, 1, 1, 1], abs=0.15)


def test_interval_of_a_share_covers_the_truth_about_as_often_as_it_says() -> None:
    metric, truth, covered = METRICS["accuracy"], 0.7, 0
    for seed in range(200):
        (rows,) = marks([truth], 150, seed)
        _, low, high = interval(metric, rows, seed, resamples=300)
        covered += low <= truth <= high
    assert 0.89 <= covered / 200 <= 0.99


def test_interval_of_macro_f1_surrounds_its_value_where_classes_are_rare() -> None:
    random_ = random.Random(0)
    references = random_.choices(LABELS, k=150)
    predictions = [r if random_.random() < 0.9 else random_.choice(LABELS) for r in references]
    found = score(["macro_f1"], predictions, references, LABELS)["macro_f1"]
    assert found["low"] < found["value"] < found["high"]


def test_all_right_on_few_rows_is_not_certainty() -> None:
    found = score(["accuracy"], ["a"] * 12, ["a"] * 12, ["a", "b"])["accuracy"]
    assert found["high"] == 1
    assert found["low"] == pytest.approx(0.025 ** (1 / 12))
    none = score(["accuracy"], ["b"] * 12, ["a"] * 12, ["a", "b"])["accuracy"]
    assert (none["low"], none["high"]) == (0, pytest.approx(1 - 0.025 ** (1 / 12)))


def test_a_clear_gain_is_decided_and_told_in_points() -> None:
    base, tuned = marks([0.4, 0.8], 300, 0)
    verdict = compare_paired("accuracy", base, tuned, seed=0)
    assert verdict["decided"]
    assert verdict["low"] < verdict["difference"] == verdict["tuned"] - verdict["base"] < verdict["high"]
    points = [f"{100 * verdict[key]:.1f}" for key in ("difference", "low", "high")]
    assert verdict["text"] == f"better by {points[0]} points ({points[1]} to {points[2]})"
    back = compare_paired("accuracy", tuned, base, seed=0)
    assert back["text"] == f"worse by {points[0]} points ({points[1]} to {points[2]})"


def test_systems_of_equal_quality_are_rarely_decided() -> None:
    decided = 0
    for seed in range(100):
        (base,), (tuned,) = marks([0.6], 100, seed), marks([0.6], 100, seed + 1000)
        decided += compare_paired("accuracy", base, tuned, seed)["decided"]
    assert decided <= 12


def test_a_handful_of_rows_decides_nothing() -> None:
    base, tuned = (measure("accuracy", [answer] * 9, ["a"] * 9, ["a", "b"]) for answer in "ba")
    verdict = compare_paired("accuracy", base, tuned)
    assert not verdict["decided"]
    assert "9 rows, too few to tell" in verdict["text"]


def test_pairing_sees_small_gains_that_separate_intervals_hide() -> None:
    base, tuned = marks([0.5, 0.58], 200, 5)
    assert compare_paired("accuracy", base, tuned)["decided"]
    _, _, base_high = interval(METRICS["accuracy"], base, 0)
    _, tuned_low, _ = interval(METRICS["accuracy"], tuned, 0)
    assert tuned_low < base_high


def test_systems_on_different_rows_are_not_compared() -> None:
    with pytest.raises(UsageError) as error:
        compare_paired("accuracy", *marks([0.5], 20, 0), *marks([0.5], 21, 0))
    assert error.value.code == "metrics.not_paired"


def test_loss_is_weighed_by_tokens_and_perplexity_is_its_exponential() -> None:
    generator = np.random.default_rng(0)
    counts = generator.integers(1, 50, 100)
    sums = counts * generator.uniform(1, 3, 100)
    found = score_losses(sums.tolist(), counts.tolist(), seed=1)
    assert found["loss"]["value"] == pytest.approx(sums.sum() / counts.sum())
    for bound in ("value", "low", "high"):
        assert found["perplexity"][bound] == pytest.approx(math.exp(found["loss"][bound]))
    assert found["loss"]["low"] < found["loss"]["value"] < found["loss"]["high"]


def test_a_lower_loss_is_better_and_an_endless_perplexity_is_undecided() -> None:
    counts = [10] * 40
    base = loss_rows([20.0 + row % 3 for row in range(40)], counts)
    tuned = loss_rows([10.0 + row % 3 for row in range(40)], counts)
    verdict = compare_paired("loss", base, tuned)
    assert verdict["decided"]
    assert verdict["text"] == "better: held-out loss lower by 1.000 (1.000 to 1.000)"
    endless = loss_rows([1e6] * 40, counts)
    assert not compare_paired("perplexity", endless, endless)["decided"]
    assert score_losses([1e6] * 40, counts)["perplexity"]["value"] == math.inf
    with pytest.raises(UsageError, match="no held-out token"):
        loss_rows([0.0], [0])


@pytest.mark.parametrize("name", ["accuracy", "macro_f1", "bleu", "chrf", "entity_f1", "rouge_l"])
def test_a_thousand_resamples_of_300_rows_are_quick(name: str) -> None:
    random_ = random.Random(0)
    words = ["one", "two", "three", "four", "five", "six", "seven"]
    references = [" ".join(random_.choices(words, k=12)) for _ in range(300)]
    if METRICS[name].needs == "labels":
        references = random_.choices(LABELS, k=300)
    if METRICS[name].needs == "spans":
        references = [f'[{{"text": "{random_.choice(words)}", "label": "A"}}]' for _ in range(300)]
    rows = measure(name, random_.sample(references, 300), references, LABELS)
    METRICS[name].value(rows.statistics[:1])
    start = time.process_time()
    interval(METRICS[name], rows, 0)
    assert time.process_time() - start < 1
