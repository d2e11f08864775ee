from __future__ import annotations

import json

import pytest

QUESTION = {"question": "Is it?", "mc1_targets": {"yes": 1, "no": 0}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "missing option"),
        (["--robustness", "--harness", "arc_easy"], "only questions of a file"),
        (["--multiple-choice", "q.jsonl", "--few-shot", "2"], "mean nothing without --data: --few-shot"),
        (["--data", "d.csv", "--harness", "arc_easy"], "mean nothing with --data: --harness"),
        (["two", "--data", "d.csv"], "one model at a time"),
        (["--multiple-choice", "missing.jsonl"], "no such file"),
        (["--multiple-choice", "q.jsonl", "-o", "taken"], "exists already"),
        (["--harness", "arc_easy", "--harness-path", "nowhere"], "no such folder"),
    ],
)
def test_what_makes_no_sense_is_told_before_a_model_is_loaded(tunesmith, tmp_path, arguments, message):
    (tmp_path / "q.jsonl").write_text(json.dumps(QUESTION))
    (tmp_path / "taken").mkdir()
    answer = tunesmith("eval", "one", *arguments)
    assert answer.code in (2, 11, 14)
    assert message in answer.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing", "-o", "c.svg"], "nothing"),
        (["nothing", "-o", "c.pdf"], ".svg, .png, .html, .json"),
        (["nothing", "-o", "taken.svg"], "exists already"),
    ],
)
def test_a_chart_needs_reports_and_a_new_file(tunesmith, tmp_path, arguments, message):
    (tmp_path / "taken.svg").touch()
    answer = tunesmith("chart", *arguments)
    assert answer.code in (2, 14, 15)
    assert message in answer.err


def test_a_chart_is_drawn_from_files_and_folders(tunesmith, tmp_path):
    interval = {"value": 0.5, "low": 0.4, "high": 0.6}
    report = {"format": 1, "run": "one", "created": "", "systems": [{"name": "base", "metrics": {"mc1": interval}}]}
    for place in ("kept", "several/01-one"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "report.json").write_text(json.dumps(report))
    for source in ("kept", "several", "kept/report.json"):
        answer = tunesmith("chart", source, "--json", "-o", f"{source.replace('/', '-')}.svg")
        assert answer.code == 0, answer.err
        assert answer.json["models"][0]["metrics"]["mc1"]["before"] == interval
    assert (tmp_path / "kept.svg").read_text().startswith("<svg")
