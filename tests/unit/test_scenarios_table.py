"""The table of benchmarks/scenarios.py is whole Markdown: all measures of all systems, and both differences."""

from __future__ import annotations

from typing import Any

from benchmarks.scenarios import HEADINGS, SCENARIOS, table_rows
from benchmarks.techniques import summary


def interval(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def system(name: str, bleu: float) -> dict[str, Any]:
    metrics = {"bleu": interval(bleu), "chrf": interval(10 * bleu)}
    return {"name": name, "metrics": metrics, "loss": interval(3.0), "perplexity": interval(20.0)}


def report(*systems: dict[str, Any], metric: str, **more: Any) -> dict[str, Any]:
    found = {"decided": True, "difference": 1.5, "low": 0.5, "high": 2.5}
    cost = dict.fromkeys(
        ("tokens", "tokens_per_second", "wall_seconds", "peak_memory_bytes", "rank_memory_bytes", "trained_parameters")
    )
    return {
        "systems": list(systems),
        "primary_metric": metric,
        "verdict": found,
        "data": {"validation": {"used_rows": 79}},
        "cost": {**cost, "steps": 68},
        **more,
    }


def cells(line: str) -> list[str]:
    assert (line[:2], line[-2:]) == ("| ", " |")
    return [cell.strip() for cell in line[1:-1].split("|")]


def test_every_measure_of_three_systems_has_its_interval_and_the_first_both_differences() -> None:
    against = {"decided": False, "difference": 0.5, "low": -0.5, "high": 1.5}
    told = report(system("base", 1), system("few_shot", 2), system("tuned", 3), metric="bleu", against_examples=against)
    first, *others = map(cells, table_rows("translation", summary(told)))
    assert first == [
        "translation",
        "79",
        "68",
        "bleu",
        "1.000 (0.900 to 1.100)",
        "2.000 (1.900 to 2.100)",
        "3.000 (2.900 to 3.100)",
        "+1.500 (+0.500 to +2.500)",
        "+0.500 (-0.500 to +1.500, undecided)",
    ]
    assert [line[3] for line in others] == ["chrf", "loss", "perplexity"]
    assert others[0][4:7] == ["10.000 (9.900 to 10.100)", "20.000 (19.900 to 20.100)", "30.000 (29.900 to 30.100)"]
    assert {len(line) for line in (first, *others)} == {len(HEADINGS)}


def test_texts_are_told_by_their_loss_and_the_general_probe() -> None:
    systems = [
        {"name": name, "metrics": {"general_perplexity": interval(30.0)}, "loss": interval(2.0), "perplexity": None}
        for name in ("base", "tuned")
    ]
    first, *others = map(cells, table_rows("documents", summary(report(*systems, metric="loss"))))
    assert first[3:7] == ["loss", "2.000 (1.900 to 2.100)", "-", "2.000 (1.900 to 2.100)"]
    assert [line[3] for line in others] == ["general_perplexity"]
    assert first[-1] == ""


def test_a_run_that_failed_is_a_line_of_as_many_cells() -> None:
    (line,) = table_rows("qa", {"error": ["no rows", "a | b"]})
    assert len(cells(line)) == len(HEADINGS)
    assert "no rows a / b" in line


def test_every_creative_and_preference_scenario_is_there() -> None:
    assert {"verse", "fiction", "music", "preference", "preference-orpo", "preference-kto"} <= SCENARIOS.keys()
