"""Metrics that a recipe names: refused before any training where they cannot tell anything of the rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_models import tiny_model_folder

from tunesmith.errors import RecipeError
from tunesmith.evaluation.metrics.table import METRICS, find_metric
from tunesmith.formats.inspect import inspect_source
from tunesmith.formats.read import read_examples
from tunesmith.pipeline.data import load_data
from tunesmith.pipeline.named_metrics import misfit
from tunesmith.pipeline.prepare import prepare, resolve_run
from tunesmith.pipeline.told import Teller
from tunesmith.recipe.load import parse_recipe
from tunesmith.runs.events import open_events
from tunesmith.tasks import EvaluationRow, PreparedTask, prepare_task

CITIES = ("Oslo", "Rome", "Paris", "Bern", "Riga", "Lima", "Kyiv", "Cairo")
ROWS: dict[str, list[dict[str, Any]]] = {
    "classification": [{"text": f"From {city}", "label": "ab"[at % 2]} for at, city in enumerate(CITIES)],
    "ner": [{"tokens": ["From", city], "ner_tags": ["O", "B-LOC"]} for city in CITIES],
    "qa": [{"question": f"Where is {city}?", "answer": "On a river"} for city in CITIES],
    "function_calling": [
        {
            "messages": [{"role": "user", "content": f"Weather in {city}?"}],
            "tools": [{"type": "function", "function": {"name": "weather"}}],
            "calls": [{"weather": {"city": [city]}}],
        }
        for city in CITIES
    ],
    "text_to_sql": [
        {"question": f"How many live in {city}?", "sql": f"SELECT n FROM towns WHERE name = '{city}'"}
        for city in CITIES
    ],
}


def prepared_rows(tmp_path: Path, task: str) -> tuple[PreparedTask, list[EvaluationRow]]:
    path = tmp_path / f"{task}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS[task]))
    inspection = inspect_source(path)
    examples = [example for _, example in read_examples(inspection)]
    found = prepare_task(task, inspection, examples)
    return found, [row for example in examples if (row := found.evaluation(example)) is not None]


@pytest.mark.parametrize(
    ("task", "metric", "why"),
    [
        ("ner", "tag_f1", "neither tags nor entities with their places"),
        ("classification", "calls_match", "not a list of expected calls"),
        ("qa", "final_number", "not even the right answers score"),
        ("qa", "json_fields", "not a JSON object"),
        ("function_calling", "exact_match", "must be a text"),
        ("text_to_sql", "sql_execution", "not even the right answers score"),
    ],
)
def test_why_a_metric_does_not_fit(tmp_path: Path, task: str, metric: str, why: str) -> None:
    assert why in misfit(find_metric(metric), *prepared_rows(tmp_path, task))


@pytest.mark.parametrize("task", ROWS)
def test_every_metric_fits_or_says_why_and_the_task_s_own_fit(tmp_path: Path, task: str) -> None:
    found, rows = prepared_rows(tmp_path, task)
    fits = {name for name, metric in METRICS.items() if metric.measure and not misfit(metric, found, rows)}
    # Without tables there are no results to compare; the queries are.
    assert set(found.metrics) - {"sql_execution"} <= fits
    assert not {"tag_f1", "abc_valid"} & fits


def test_a_metric_that_does_not_fit_is_refused_with_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    prepared_rows(tmp_path, "ner")
    recipe = parse_recipe(
        {
            "model": str(tiny_model_folder("llama", tmp_path / "model")),
            "data": {"train": str(tmp_path / "ner.jsonl"), "validation": 0.5},
            "evaluate": {"metrics": ["entity_f1", "tag_f1"]},
        }
    )
    teller = Teller(open_events(tmp_path / "events.jsonl"))
    prepared = prepare(recipe, load_data(recipe.data, 0), tmp_path, teller)
    with pytest.raises(RecipeError) as caught:
        resolve_run(prepared)
    (problem,) = caught.value.problems
    assert (problem.code, problem.place, problem.value) == ("recipe.metric_of_task", "evaluate.metrics", "tag_f1")
    assert "entity_recall" in str(problem.hint)
