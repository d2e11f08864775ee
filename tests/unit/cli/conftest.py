from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "evaluation" / "report"))

from example_report import make_report

from tunesmith.cli import main
from tunesmith.runs.events import open_events
from tunesmith.runs.layout import RunFolder, create_run


class Answer:
    """What a command printed, and how it ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def tunesmith(tmp_path, monkeypatch, capsys):
    """Run a command in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Answer:
        capsys.readouterr()
        code = main.run(list(arguments))
        printed = capsys.readouterr()
        return Answer(code, printed.out, printed.err)

    return call


@pytest.fixture
def make_run(tmp_path):
    """A finished run with a report, or one that ended in another state."""

    def make(name: str, state: str = "finished", **changes) -> RunFolder:
        run = create_run(tmp_path / "runs", name)
        run.recipe.write_text("model: tiny\ndata: {train: a.jsonl}\ntechnique: {name: lora, rank: 8}\n")
        events = open_events(run.events)
        events.emit("status", state="training")
        events.emit("step", 12, loss=0.5, total_steps=20, eta_seconds=3.0)
        events.emit("warning", code="data.duplicates", message="3 rows are duplicates")
        events.emit("status", state=state)
        if state == "finished":
            run.report_json.write_text(json.dumps({**make_report(rows=40, steps=12), "run": name, **changes}))
            run.report_html.write_text("<html></html>")
            run.adapter.mkdir()
        return run

    return make
