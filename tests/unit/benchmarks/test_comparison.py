"""What the training benchmark says of its runs; the page on performance says the same of those that are kept."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from benchmarks.comparison import loss_difference, rates, ratios, table
from benchmarks.options import read_step_options

ROOT = Path(__file__).resolve().parents[3]
KEPT = sorted((ROOT / "benchmarks" / "results").glob("*-training-*.json"))


def run(*steps: tuple[int, int, float, float]) -> dict[str, object]:
    """A side's run of steps of (rows, tokens, seconds, loss)."""
    names = ("rows", "tokens", "seconds", "loss")
    return {"steps": [dict(zip(names, step, strict=True)) for step in steps], "peak_memory_bytes": 2**30}


OURS = run((8, 100, 50.0, 2.0), (8, 100, 1.0, 1.5), (8, 100, 3.0, 1.0))
BY_LENGTH = run((8, 300, 90.0, 2.5), (8, 200, 4.0, 2.0))
IN_ORDER = run((8, 100, 70.0, 2.1), (8, 100, 4.0, 1.7))


def test_the_first_step_is_not_counted():
    assert rates([OURS]) == {
        "tokens_per_second": 50.0,
        "rows_per_second": 4.0,
        "counted_steps": 2,
        "counted_tokens": 200,
        "peak_memory_gib": 1.0,
    }


def test_longer_rows_count_for_a_peer_in_tokens_and_not_in_rows():
    assert ratios([OURS], [BY_LENGTH]) == {"tokens": 1.0, "as_many_tokens": 1.0, "rows": 2.0}


def test_the_same_rows_are_compared_where_a_peer_took_them():
    found = ratios([OURS], [IN_ORDER])
    assert found["tokens"] == 2.0
    assert found["same_rows"] == found["as_many_tokens"] == 4.0


def test_a_step_that_looks_alike_by_chance_is_not_one_of_the_same_rows():
    chance = run((8, 300, 90.0, 2.5), (8, 100, 4.0, 2.0))
    assert "same_rows" not in ratios([OURS], [chance])


def test_as_many_tokens_end_within_a_step():
    short = run((8, 300, 90.0, 2.5), (8, 150, 9.0, 2.0))
    assert ratios([OURS], [short])["as_many_tokens"] == pytest.approx(9.0 / 2.5)


def test_rounds_are_compared_one_by_one():
    twice = [IN_ORDER, run((8, 100, 70.0, 2.1), (8, 100, 8.0, 1.7), (8, 100, 8.0, 1.2))]
    assert ratios([OURS, OURS], twice)["same_rows"] == pytest.approx((4 + 8 + 8) / (1 + 1 + 3))


def test_losses_of_other_rows_are_not_compared():
    assert loss_difference([OURS], [IN_ORDER]) == "0.150"
    assert loss_difference([OURS], [BY_LENGTH]) == ""


def test_a_side_that_failed_has_its_error_and_no_ratio():
    failed = {"error": ["no memory left"]}
    assert rates([OURS, failed]) is None
    assert ratios([OURS], [failed]) == {}
    lines = table({"runs": {"tunesmith": [OURS], "peer": [failed]}, "products": []})
    assert lines[-1] == "| peer | failed: no memory left |" + " |" * (lines[0].count("|") - 3)
    assert lines[-2] == "| tunesmith | 2 (200) | 50 | 4.00 |  |  |  |  | 1.0 GiB |  |  |"


@pytest.mark.parametrize(("told", "least"), [((), 3), (("--least-counted-steps", "1"), 1)])
def test_a_slow_side_takes_several_steps_unless_told_otherwise(told, least, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["training", "--data-folder", str(tmp_path), *told])
    options = read_step_options("", {"sides": ["tunesmith"]}, ("conversations",), 20)
    assert options.least_counted_steps == least


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_the_page_has_the_rows_that_kept_results_give(path):
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8").splitlines()
    for found in json.loads(path.read_text(encoding="utf-8"))["measured"].values():
        missing = [line for line in table(found) if "| failed: " not in line and line not in page]
        assert not missing, f"python -m benchmarks.comparison {path.relative_to(ROOT)}"


def test_the_command_prints_the_tables_of_a_kept_result():
    told = subprocess.run(
        [sys.executable, "-m", "benchmarks.comparison", str(KEPT[0])],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    (found,) = json.loads(KEPT[0].read_text(encoding="utf-8"))["measured"].values()
    assert told.stdout.split("\n\n")[-1].strip().splitlines() == table(found)
