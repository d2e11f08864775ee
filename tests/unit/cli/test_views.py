"""What is shown while work goes on, and tables on narrow and wide terminals."""

from __future__ import annotations

import io
import os
import sys

import pytest
import yaml

from tunesmith.cli import progress, words
from tunesmith.cli.audit_view import print_audit
from tunesmith.cli.event_lines import Line, Position, read_event
from tunesmith.cli.options import column_map
from tunesmith.cli.resolved_view import resolved_yaml
from tunesmith.cli.tables import Cell, Column, table_lines
from tunesmith.errors import UsageError
from tunesmith.runs.events import Event


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def columns(monkeypatch):
    def set_to(number: int) -> Terminal:
        monkeypatch.setattr("shutil.get_terminal_size", lambda *_, **__: os.terminal_size((number, 24)))
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.delenv("NO_COLOR", raising=False)
        return Terminal()

    return set_to


def event(type_: str, step: int | None = None, **data) -> Event:
    return Event(1, 1, "2026-01-01T00:00:00+00:00", type_, step, data)


def test_a_step_names_loss_speed_memory_and_time_left():
    shown = read_event(
        event("step", 3, loss=1.23456, tokens_per_second=2345.6, memory_bytes=1.2e9, total_steps=60, eta_seconds=125.4)
    )
    assert shown == Position("step", 3, 60, "3/60", "loss 1.235  2,346 tokens/s  1.2 GB  2 min 5 s left")


def test_a_step_without_measurements_is_shown_too():
    assert read_event(event("step", 3, loss=float("nan"))) == Position("step", 3, None, "3", "loss nan")


def test_downloads_count_bytes_and_unknown_states_say_nothing():
    shown = read_event(event("progress", what="download", done=1_500_000, total=9e6, unit="bytes"))
    assert shown == Position("downloading", 1_500_000, 9_000_000, "1.5 MB of 9.0 MB")
    assert read_event(event("status", state="started")) is None
    assert read_event(event("something_of_a_later_version")) is None


def test_lines_come_at_most_every_few_seconds_and_the_last_always(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.open_view() as view:
        for step in range(1, 31):
            view.show(Position("step", step, 30, f"{step}/30"))
            now[0] += 1.0
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"step {step}/30" for step in (1, 6, 11, 16, 21, 26, 30)]


def test_a_warning_comes_after_the_position_that_it_belongs_to(capsys):
    with progress.open_view() as view:
        for step in (1, 2, 3):
            view.show(Position("step", step, 30, f"{step}/30"))
        view.show(Line("warning: x"))
    assert capsys.readouterr().err.splitlines() == ["step 1/30", "step 3/30", "warning: x"]


@pytest.mark.parametrize("number", [40, 80, 120])
def test_tables_fit_the_terminal_and_lose_nothing(columns, number):
    stream = columns(number)
    text = "a reason that is long enough to be wrapped more than once on every terminal that is tested here"
    lines = table_lines([Column("key"), Column("why", wrap=True)], [["x", Cell(text, "dim")]], stream)
    plain = [line.replace("\x1b[2m", "").replace("\x1b[1m", "").replace("\x1b[0m", "") for line in lines]
    assert max(map(len, plain)) <= number
    assert " ".join(" ".join(plain[1:]).split()).replace("x ", "", 1) == text


def test_wide_characters_keep_the_columns_straight():
    lines = table_lines([Column("", right=False), Column("")], [["日本", "a"], ["abcd", "b"]], io.StringIO())
    assert lines == ["日本  a", "abcd  b"]


def test_control_characters_do_not_reach_the_terminal():
    assert table_lines([Column("")], [["a\x1b[31m\nb"]], io.StringIO()) == ["a�[31m b"]


def test_no_colour_where_it_is_not_wanted(columns, monkeypatch):
    stream = columns(80)
    monkeypatch.setenv("NO_COLOR", "1")
    assert table_lines([Column("h")], [[Cell("a", "red")]], stream) == ["h", "a"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0.0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (3599.9, "1 h 0 min"),
        (7260, "2 h 1 min"),
        (float("inf"), "-"),
    ],
)
def test_durations(value, text):
    assert words.duration(float(value)) == text


@pytest.mark.parametrize(
    ("value", "text"), [(999, "999 B"), (999_600, "1.0 MB"), (134_500_000, "134 MB"), (2e12, "2.0 TB")]
)
def test_sizes(value, text):
    assert words.storage(value) == text


def test_the_resolved_recipe_is_yaml_with_reasons_as_comments():
    recipe = {
        "model": "tiny",
        "technique": {"name": "lora", "rank": 16},
        "task": "auto",
        "train": {"epochs": "auto", "seed": 0, "precision": "auto", "checkpoint_every_steps": "auto"},
        "evaluate": {"metrics": "auto"},
    }
    resolved = {
        "portable": {
            "task": {"value": "chat", "reason": "auto: the rows are conversations: ok # really"},
            "train.epochs": {"value": 3.0, "reason": "auto: because"},
            "evaluate.metrics": {"value": ["accuracy", "f1"], "reason": "auto: of the task"},
            "technique": {"value": {"name": "lora", "rank": 16}, "reason": "given"},
            "train.budget_seconds": {"value": 600.0, "reason": "of train.budget"},
        },
        "host": {
            "train.precision": {"value": "float32", "reason": "auto: bfloat16 is slow"},
            "train.checkpoint_every_steps": {"value": None, "reason": "auto: the run is short"},
        },
        "identity": "abc",
    }
    text = resolved_yaml(recipe, resolved)
    assert yaml.safe_load(text) == {
        "model": "tiny",
        "technique": {"name": "lora", "rank": 16},
        "task": "chat",
        "train": {"epochs": 3.0, "seed": 0, "precision": "float32", "checkpoint_every_steps": "auto"},
        "evaluate": {"metrics": ["accuracy", "f1"]},
    }
    assert "# auto: because" in text
    assert "# for this machine: auto: bfloat16 is slow" in text
    assert "# for this machine: auto: the run is short" in text
    assert "\n# train.budget_seconds: 600.0 (of train.budget)\n" in text


@pytest.mark.parametrize("value", ["yes", "1e-3", "a: b", "- x", "", None, 1e-5, "multi\nline", "#x"])
def test_every_value_of_a_resolved_recipe_reloads_as_itself(value):
    assert yaml.safe_load(resolved_yaml({"a": {"b": value}}, {})) == {"a": {"b": value}}


AUDIT = {
    "ok": False,
    "checks": [
        {"name": "every row has trained tokens", "ok": True, "detail": "3 of 3 rows", "problems": []},
        {
            "name": "nothing trained is lost",
            "ok": False,
            "detail": "7 rows",
            "problems": [{"place": f"a.jsonl:{line}", "message": "too long"} for line in range(1, 8)],
        },
    ],
    "tokens": {
        "total": 300,
        "trained": 30,
        "longest": 60,
        "mean": 33.3,
        "histogram": [{"up_to": 32, "rows": 1}, {"up_to": 64, "rows": 2}],
    },
    "overlap": None,
    "shown": [
        {
            "place": "a.jsonl:1",
            "pieces": [
                {"text": "Hi\n", "trained": False},
                {"text": "y", "trained": True},
                {"text": "es\x1b[0m", "trained": True},
            ],
        }
    ],
}


def test_the_audit_without_colour_marks_what_trains(capsys):
    print_audit(AUDIT)
    text = capsys.readouterr().out
    assert "  ok      every row has trained tokens: 3 of 3 rows" in text
    assert "  FAILED  nothing trained is lost: 7 rows" in text
    assert "a.jsonl:5: too long" in text
    assert "a.jsonl:6" not in text
    assert "and 2 more" in text
    assert "  Hi\n  ⟦yes�[0m⟧\n" in text
    assert "300 tokens, 30 of them trained" in text


def test_the_audit_in_colour_paints_what_trains(columns, monkeypatch):
    stream = columns(80)
    monkeypatch.setattr(sys, "stdout", stream)
    print_audit(AUDIT)
    assert "\x1b[32myes�[0m\x1b[0m" in stream.getvalue()
    assert "⟦" not in stream.getvalue()


def test_column_maps():
    assert column_map(["text=body", "label=a=b"]) == {"text": "body", "label": "a=b"}
    assert column_map(None) is None
    for wrong in (["text"], ["=x"], ["text="], ["text=a", "text=b"]):
        with pytest.raises(UsageError):
            column_map(wrong)
