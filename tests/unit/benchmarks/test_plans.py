"""What the benchmark of plans runs, what it holds plans against, and what it prints of both."""

from __future__ import annotations

import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from tunesmith.recipe.budget import parse_budget
from tunesmith.recipe.load import apply_overrides, parse_recipe

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from benchmarks.foreseen import summary_text
from benchmarks.planning import GRID, Row, errors, table_head, table_row
from benchmarks.published import PUBLISHED, published_errors, published_table, published_trainings

GIB = 2**30
CONTENT = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))


def a_run(row: Row, *, memory: tuple[float, float] = (2.0, 2.5), seconds: tuple[float, float] = (4.0, 3.0)) -> dict:
    """What a run of the grid leaves: planned and measured GiB, and seconds of a step."""
    rows = {"peak_memory_bytes": [GIB * one for one in memory], "seconds_a_step": seconds}
    plan = [{"what": what, "predicted": planned, "measured": true} for what, (planned, true) in rows.items()]
    return {"row": asdict(row), "plan": plan}


def cells(line: str) -> list[str]:
    return [one.strip() for one in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_the_grid_varies_technique_batch_and_length() -> None:
    rows = GRID.values()
    assert {one.technique for one in rows} >= {"lora", "dora", "qlora", "full", "freeze"}
    for technique in ("lora", "full"):
        own = [one for one in rows if one.technique == technique]
        assert len({one.step_tokens for one in own}) >= 3
        assert len({one.pack_tokens for one in own}) >= 3
        assert len({one.text_tokens for one in own}) >= 3, "short rows, and two lengths of long ones"
    assert len(GRID) == len(set(rows))


@pytest.mark.parametrize("row", GRID.values(), ids=lambda row: row.name)
def test_a_row_of_the_grid_is_a_recipe_of_two_steps(row: Row) -> None:
    settings = [*row.settings, f"train.budget={row.budget}"]
    recipe = parse_recipe(apply_overrides({"model": "m", "data": {"train": "rows.jsonl"}}, settings))
    assert recipe.train.tokens_per_step == row.step_tokens
    assert recipe.train.max_length == (row.text_tokens or "auto")
    tokens = parse_budget(row.budget).tokens
    assert tokens is not None
    assert 1.5 < tokens / row.step_tokens < 2


def test_a_line_of_the_table_has_a_cell_for_each_head() -> None:
    row = Row("qlora", step_tokens=4096, pack_tokens=2048, text_tokens=512)
    head, _ = table_head().splitlines()
    line = cells(table_row(a_run(row)))
    assert len(line) == len(cells(head))
    assert line == [
        *("qlora", "4,096", "2,048", "texts of 512", "no"),
        *("2.00 GiB", "2.50", "1.25", "4.0 s", "3.0", "0.75"),
    ]
    failed = cells(table_row({"row": asdict(row), "error": ["no room | left", "over"]}))
    assert len(failed) == len(line)
    assert "failed: no room \\| left over" in failed


def test_errors_are_told_with_their_aims_and_what_is_left_out() -> None:
    found: dict[str, Any] = {
        "a": a_run(Row("lora"), memory=(1.0, 1.0), seconds=(1.0, 1.0)),
        "b": a_run(Row("full"), memory=(1.0, 2.0), seconds=(1.5, 1.0)),
        "c": {"row": asdict(Row("dora")), "error": ["gone"]},
    }
    told = errors(found).splitlines()
    assert told[0] == (
        "Measured here, memory, 2 plans: median error 25% (aim 10%, missed); measured over planned 1.00 to 2.00; "
        "worst under-estimate 50% (aim: never more than 25%, missed)."
    )
    assert "time of a step, 2 plans: median error 25% (aim 15%, missed)" in told[1]
    assert told[2] == "1 of 3 runs failed and are in none of these numbers."


def test_an_aim_that_is_kept_is_called_so_and_nothing_is_said_of_nothing() -> None:
    kept = summary_text("memory", [(1.05, 1.0)], 0.10, most_under=0.25)
    assert kept.count("kept") == 2
    assert kept.startswith("memory, 1 plan: ")
    assert "worst under-estimate 0%" in kept
    assert "no plan" in summary_text("memory", [], 0.10)


@pytest.mark.parametrize("source", CONTENT["sources"], ids=lambda source: source["title"])
def test_every_published_figure_has_an_address_a_revision_and_a_date(source: dict) -> None:
    assert source["url"].startswith("https://")
    assert source["revision"]
    assert re.fullmatch(r"20\d\d-\d\d(-\d\d)?", str(source["date"]))
    assert source["conditions"]
    assert source["trainings"]
    for one in source["trainings"]:
        measured = {"memory", "tokens_per_second", "step_seconds"} & one.keys()
        assert measured
        assert "memory" not in measured or (source["counts"] in ("tensors", "device") and source["unit"])


def test_every_published_training_is_planned_and_told() -> None:
    found = published_trainings()
    assert len(found) == sum(len(source["trainings"]) for source in CONTENT["sources"]) >= 20
    table = published_table(found).splitlines()
    assert {len(cells(line)) for line in table} == {len(cells(table[0]))}
    assert len(table) == 2 + len(found)
    told = published_errors(found)
    assert "memory, 25 plans" in told
    assert "time of a step, 20 plans" in told
    assert all(one.program in told for one in found)


def test_published_numbers_are_read_in_their_units() -> None:
    found = published_trainings()
    litgpt = next(one for one in found if one.program == "LitGPT")
    assert litgpt.memory == pytest.approx(21.3e9)
    qwen = next(one for one in found if one.program == "Qwen" and one.row_tokens == 2048)
    assert qwen.memory == pytest.approx(11 * GIB)
    assert qwen.seconds == 1.7
    torchtune = next(one for one in found if one.program == "torchtune")
    assert torchtune.seconds == pytest.approx(2 * 4096 / 8210)
    # Twice the rows at once is about twice the work.
    one_row, two_rows = [one for one in found if one.program == "LitGPT"][:2]
    assert two_rows.seconds_planned == pytest.approx(2 * one_row.seconds_planned, rel=0.05)
    assert two_rows.memory_planned > one_row.memory_planned
