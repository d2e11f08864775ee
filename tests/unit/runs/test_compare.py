"""Two runs side by side."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from typing import Any

from tunesmith.runs.compare import Comparison, compare


def make_report() -> dict[str, Any]:
    return {
        "format": 1,
        "run": "first",
        "task": "classification",
        "objective": "sft",
        "technique": {"name": "lora", "rank": 8},
        "model": {"name": "tiny", "revision": "1"},
        "seed": 0,
        "systems": [
            {
                "name": "tuned",
                "loss": {"value": 0.5, "low": 0.4, "high": 0.6},
                "metrics": {"accuracy": {"value": 0.8, "low": 0.7, "high": 0.9, "higher_is_better": True}},
            }
        ],
        "cost": {"steps": 100, "wall_seconds": {"total": 60.0}},
        "data": {
            "train": {"files": [{"name": "a.csv", "sha256": "11"}], "rows": 100},
            "validation": {"files": [{"name": "v.csv", "sha256": "22"}], "used_rows": 50},
            "split": "given file",
        },
        "resolved": {"train.learning_rate": {"value": 1e-4, "reason": "because"}},
        "environment": {"python": "3.11", "threads": 2},
    }


def lines(comparison: Comparison, section: str) -> dict[str, tuple[Any, Any, float | None]]:
    return {row.what: (row.a, row.b, row.difference) for row in comparison.rows if row.section == section}


def test_only_what_differs_is_told_but_metrics_and_cost_always() -> None:
    first, second = make_report(), make_report()
    second |= {"run": "second", "technique": {"name": "lora", "rank": 16, "dropout": 0.1}, "seed": 1}
    second["resolved"]["train.learning_rate"] = {"value": 2e-4, "reason": "other"}
    second["systems"][0]["metrics"]["accuracy"] |= {"value": 0.9, "low": 0.85, "high": 0.95}
    found = compare(first, second)
    assert (found.a, found.b) == ("first", "second")
    assert lines(found, "recipe") == {
        "technique.rank": (8, 16, 8),
        "technique.dropout": (None, 0.1, None),
        "seed": (0, 1, 1),
    }
    assert lines(found, "resolved") == {"train.learning_rate": (1e-4, 2e-4, 1e-4)}
    assert lines(found, "data") == lines(found, "environment") == {}
    assert lines(found, "cost") == {"steps": (100, 100, 0), "wall_seconds.total": (60.0, 60.0, 0)}
    metrics = {row.what: row for row in found.rows if row.section == "metrics"}
    assert metrics["tuned.loss"].difference == 0
    assert abs((metrics["tuned.accuracy"].difference or 0) - 0.1) < 1e-9
    assert metrics["tuned.accuracy"].b_range == (0.85, 0.95)
    assert found.warnings == ()


def test_a_reason_in_other_words_is_no_difference_but_true_is_not_one() -> None:
    first, second = make_report(), make_report()
    second["resolved"]["train.learning_rate"]["reason"] = "told otherwise"
    assert lines(compare(first, second), "resolved") == {}
    first["resolved"]["packing"], second["resolved"]["packing"] = {"value": 1}, {"value": True}
    assert lines(compare(first, second), "resolved") == {"packing": (1, True, None)}


def test_numbers_from_other_rows_models_or_tasks_come_with_a_warning() -> None:
    first, second = make_report(), make_report()
    second["data"]["validation"]["files"][0]["sha256"] = "33"
    found = compare(first, second)
    assert lines(found, "data") == {"validation.files.1.sha256": ("22", "33", None)}
    assert len(found.warnings) == 1
    assert "held-out rows differ" in found.warnings[0]
    second |= {"task": "chat", "model": {"name": "other"}}
    assert len(compare(first, second).warnings) == 3


def test_reports_with_missing_parts_are_compared_as_far_as_they_go() -> None:
    first = make_report()
    found = compare(first, {"format": 1, "run": "stopped", "systems": None, "cost": None})
    assert lines(found, "metrics")["tuned.accuracy"] == (0.8, None, None)
    assert compare({}, {}).rows == ()


def test_a_comparison_is_plain_data_and_leaves_the_reports_alone() -> None:
    first, second = make_report(), make_report()
    before = copy.deepcopy(first)
    data = compare(first, second).to_json()
    assert json.loads(json.dumps(data))["rows"][0]["section"] == "metrics"
    assert first == before


def test_comparing_needs_no_training_stack() -> None:
    code = (
        "import sys, tunesmith.runs.compare\n"
        "print(sorted({'torch', 'numpy', 'matplotlib', 'transformers'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
