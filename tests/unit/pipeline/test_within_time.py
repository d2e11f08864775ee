"""The base is measured on as many rows as its share of the budget allows, and all systems on the same ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tunesmith.data.types import TokenRow
from tunesmith.evaluation.held_out import RowLosses
from tunesmith.evaluation.questions import HeldOut
from tunesmith.evaluation.systems import Answers, Asked, Ruler
from tunesmith.formats.read import choose_rows
from tunesmith.pipeline import within_time
from tunesmith.pipeline.measure import Bench
from tunesmith.pipeline.within_time import FIRST_ROWS, base_seconds, measure_base_within
from tunesmith.tasks import EvaluationRow


class Clock:
    time = 0.0

    def __call__(self) -> float:
        return self.time


def row(number: int) -> TokenRow:
    return TokenRow(np.array([1, number]), np.array([False, True]), f"rows.jsonl:{number}")


def make_bench(folder: Path, clock: Clock, *, rows: int, seconds_per_row: float, monkeypatch: Any) -> Bench:
    """A bench whose loss of an item is its number, and whose answers are prompts; each item takes its time."""

    def losses(model: Any, items: Any, done: Any, stop: Any) -> RowLosses:
        clock.time += seconds_per_row * len(items)
        numbers = tuple(float(item[0].token_ids_T[1]) for item in items)
        return RowLosses(numbers, (1,) * len(numbers))

    def answers(model: Any, asked: Asked, done: Any, stop: Any) -> Answers:
        return Answers(tuple(f"answer {prompt[0]}" for prompt in asked.prompts), len(asked.prompts))

    monkeypatch.setattr(
        "tunesmith.pipeline.measure.ask_as_is",
        lambda bench: Asked([[int(place.split(":")[1])] for place in bench.held_out.places], bench.held_out.items),
    )
    items = [(row(number),) for number in range(rows)]
    # Every other item holds a question.
    asked = [item[0].place for item in items[::2]]
    held_out = HeldOut(items, tuple(asked), tuple(EvaluationRow((), (), place, place) for place in asked))
    warnings: list[str] = []
    return Bench(
        prepared=SimpleNamespace(  # type: ignore[arg-type]
            data=SimpleNamespace(train_fingerprint=lambda: "a", held_out_fingerprint=lambda: "b"),
            recipe=SimpleNamespace(evaluate=SimpleNamespace(rows="auto")),
            model=SimpleNamespace(folder=folder),
        ),
        resolved=SimpleNamespace(  # type: ignore[arg-type]
            seed=3,
            identity="c",
            budget_seconds=240.0,
            few_shot=5,
            objective=SimpleNamespace(name="sft"),
            technique=None,
        ),
        held_out=held_out,
        ruler=Ruler(losses, answers, lambda done, total: None, lambda: False),
        folder=folder,
        teller=SimpleNamespace(warn=lambda messages, code: warnings.extend(messages), warnings=warnings),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("seconds_per_row", "rows"),
    [(0.01, 100), (0.29, 100), (0.5, 60), (0.9, 33), (50.0, FIRST_ROWS)],
)
def test_rows_are_measured_until_the_time_is_over(tmp_path, monkeypatch, seconds_per_row, rows):
    clock = Clock()
    bench = make_bench(tmp_path, clock, rows=100, seconds_per_row=seconds_per_row, monkeypatch=monkeypatch)
    narrowed, measured = measure_base_within(bench, SimpleNamespace(eval=lambda: None), 30.0, clock)
    chosen = choose_rows(100, rows, 3)
    assert [item[0].token_ids_T[1] for item in narrowed.held_out.items] == list(chosen)
    assert measured.losses.loss_sums_B == tuple(map(float, chosen))
    assert measured.answers == tuple(f"answer {at}" for at in chosen if at % 2 == 0)
    assert narrowed.held_out.references == [f"rows.jsonl:{at}" for at in chosen if at % 2 == 0]
    assert bool(bench.teller.warnings) == (rows < 100)
    if rows < 100:
        assert f"{rows} instead of 100" in bench.teller.warnings[0]


def test_a_resumed_run_measures_the_same_rows(tmp_path, monkeypatch):
    clock = Clock()
    bench = make_bench(tmp_path, clock, rows=100, seconds_per_row=0.5, monkeypatch=monkeypatch)
    narrowed, measured = measure_base_within(bench, SimpleNamespace(eval=lambda: None), 30.0, clock)
    before = clock.time
    again, kept = measure_base_within(bench, SimpleNamespace(eval=lambda: None), 3000.0, clock)
    assert (again.held_out, kept) == (narrowed.held_out, measured)
    assert clock.time == before


def test_nothing_is_cut_without_a_budget_or_where_rows_were_asked_for(tmp_path, monkeypatch):
    bench = make_bench(tmp_path, Clock(), rows=100, seconds_per_row=1.0, monkeypatch=monkeypatch)
    assert base_seconds(bench) == pytest.approx(1.5 * 240 * within_time.EVALUATION_SHARE / 3)
    assert base_seconds(replace(bench, resolved=SimpleNamespace(budget_seconds=None))) is None
    asked = SimpleNamespace(recipe=SimpleNamespace(evaluate=SimpleNamespace(rows=100)))
    assert base_seconds(replace(bench, prepared=asked)) is None
    narrowed, measured = measure_base_within(bench, SimpleNamespace(eval=lambda: None), None)
    assert narrowed is bench
    assert len(measured.losses.counts_B) == 100
