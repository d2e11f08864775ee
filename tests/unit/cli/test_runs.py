"""Runs as the command line shows them."""

from __future__ import annotations

import json

import pytest


def test_an_empty_list_says_where_it_looked(tunesmith):
    assert tunesmith("runs", "list").out == "no runs in runs\n"
    assert tunesmith("runs", "list", "--json").json == []


def test_list_names_state_steps_and_result(tunesmith, make_run):
    make_run("first")
    make_run("second", "stopped")
    rows = [line.split() for line in tunesmith("runs", "list").out.splitlines()]
    assert rows[0] == ["run", "state", "steps", "model", "technique", "result"]
    assert rows[1][:5] == ["first", "finished", "12/20", "tiny", "lora"]
    assert rows[1][5] == "accuracy"
    assert rows[2] == ["second", "paused", "12/20", "tiny", "lora", "-"]
    found = tunesmith("runs", "list", "--json").json
    assert [(one["run"], one["state"], one["step"]) for one in found] == [
        ("first", "finished", 12),
        ("second", "paused", 12),
    ]


def test_show_prints_recipe_metrics_files_and_what_to_do(tunesmith, make_run, tmp_path):
    make_run("first")
    text = tunesmith("runs", "show", "first").out
    for part in (
        "first  finished",
        "  model: tiny",
        "on 40 held-out rows",
        "accuracy",
        "adapter/",
        "tunesmith chat first",
    ):
        assert part in text
    assert "warning: 3 rows are duplicates" in text
    found = tunesmith("runs", "show", "first", "--json").json
    assert found["metrics"]["accuracy"] == found["report"]["systems"][2]["metrics"]["accuracy"]["value"]
    assert found["recipe"]["technique"] == {"name": "lora", "rank": 8}
    assert set(found["files"]) == {"adapter", "report_json", "report_html"}


def test_show_of_a_paused_run_says_how_to_go_on(tunesmith, make_run, tmp_path, monkeypatch):
    run = make_run("second", "stopped")
    assert "tunesmith runs resume second\n" in tunesmith("runs", "show", "second").out
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert f"tunesmith runs resume {run.path}\n" in tunesmith("runs", "show", str(run.path)).out


def test_tables_are_never_cut_in_a_pipe(tunesmith, make_run):
    run = make_run("first")
    run.recipe.write_text(f"model: {'very-long-' * 30}\n")
    assert "very-long-" * 30 in tunesmith("runs", "list").out


def test_compare_tells_what_differs_and_warns(tunesmith, make_run):
    make_run("first")
    make_run("second", seed=5, task="ner")
    text = tunesmith("runs", "compare", "first", "second").out
    assert "warning: the tasks differ" in text
    assert ["seed", "0", "5"] in [line.split() for line in text.splitlines()]
    found = tunesmith("runs", "compare", "first", "second", "--json").json
    assert {"seed", "task"} <= {row["what"] for row in found["rows"] if row["section"] == "recipe"}


def test_compare_needs_reports(tunesmith, make_run):
    make_run("first")
    make_run("second", "stopped")
    answer = tunesmith("runs", "compare", "first", "second")
    assert (answer.code, answer.out) == (15, "")
    assert "runs resume second" in answer.err


def test_remove_asks_and_needs_yes_where_nobody_can_be_asked(tunesmith, make_run, monkeypatch):
    run = make_run("first")
    answer = tunesmith("runs", "remove", "first")
    assert answer.code == 2
    assert "--yes" in answer.err
    assert run.path.exists()
    assert tunesmith("runs", "remove", "first", "--yes").out == "removed first\n"
    assert not run.path.exists()


def test_remove_of_several_removes_none_where_one_is_missing(tunesmith, make_run):
    run = make_run("first")
    assert tunesmith("runs", "remove", "first", "secnd", "-y").code == 15
    assert run.path.exists()


@pytest.mark.parametrize("verb", ["pause", "cancel"])
def test_what_does_not_run_cannot_be_stopped(tunesmith, make_run, verb):
    make_run("first")
    answer = tunesmith("runs", verb, "first", "--json")
    assert answer.code == 15
    assert answer.json["error"]["code"] == "run.not_running"


def test_resume_of_a_finished_run_shows_it_again(tunesmith, make_run):
    make_run("first")
    answer = tunesmith("runs", "resume", "first")
    assert answer.code == 0
    assert "accuracy" in answer.out
    assert "finished" in answer.err


def test_a_cancelled_run_is_not_resumed(tunesmith, make_run):
    make_run("first", "cancelled")
    answer = tunesmith("runs", "resume", "first")
    assert answer.code == 15
    assert "cancelled" in answer.err


def test_what_a_broken_machine_left_is_shown_all_the_same(tunesmith, make_run):
    run = make_run("first", "stopped")
    run.recipe.write_bytes(b"model: [\xff")
    with run.events.open("ab") as file:
        file.write(b'{"seq": 5, "att')
    assert "first" in tunesmith("runs", "list").out
    assert tunesmith("runs", "show", "first").code == 0
    assert json.loads(tunesmith("runs", "list", "--json").out)[0]["state"] == "paused"
