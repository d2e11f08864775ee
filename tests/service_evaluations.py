"""Evaluations of a service for tests: asked for, and measured by a worker that only writes what a plan says.

monkeypatch.setenv("FAKE_PLAN", ...); stand_in_worker(monkeypatch, folder, plan_of_report(report_of()))
evaluation = create(project, file_id); go_on(site); look(project, evaluation["id"])
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import fake_worker
import pytest
from service_site import Project, Site

from tunesmith.executors.local import worker
from tunesmith.service.evaluations.states import take
from tunesmith.service.evaluations.work import work

PATH = "/tunesmith/v1/evaluations"


def stand_in_worker(monkeypatch: pytest.MonkeyPatch, folder: Path, plan: list[list[Any]]) -> None:
    """Let every worker do what a plan says, see tests/fake_worker.py."""
    path = folder / "plan.json"
    path.write_text(json.dumps(plan))
    monkeypatch.setenv("FAKE_PLAN", str(path))
    monkeypatch.setattr(worker, "WORKER_COMMAND", fake_worker.COMMAND)


def report_of(*systems: str, **more: Any) -> dict[str, Any]:
    """A report as a worker writes it: of a base, and of a tuned model if it is named."""
    return {
        "format": 1,
        "run": "tiny",
        "task": "chat",
        "primary_metric": "exact_match",
        "systems": [
            {
                "name": name,
                "label": name.capitalize(),
                "loss": {"value": 1.5, "low": 1.0, "high": 2.0},
                "metrics": {"exact_match": {"value": 0.25 * (at + 1), "low": 0.1, "high": 0.9}},
                "details": {},
                "tokens": {"read": 100 * (at + 1), "written": 10 * (at + 1)},
            }
            for at, name in enumerate(systems or ("base",))
        ],
        "verdict": None,
        "samples": [{"place": "rows.jsonl:1", "prompt": "ask", "reference": "yes", "answers": {"base": "no"}}],
        "data": {"validation": {"used_rows": 3}},
        **more,
    }


def plan_of(report: dict[str, Any]) -> list[list[Any]]:
    """A worker that measures at once."""
    return [
        ["event", "status", None, {"state": "evaluating"}],
        ["event", "progress", None, {"what": "evaluate", "done": 3, "total": 3, "unit": "rows"}],
        ["write", "report.json", report],
        ["write", "report.md", f"# Report of {report['run']}"],
        ["write", "report.html", f"<!doctype html><h1>Report of {report['run']}</h1>"],
    ]


def create(project: Project, file: str, status: int = 200, **more: Any) -> dict[str, Any]:
    """An evaluation as it is told; or its error."""
    answer = project.client().post(PATH, json={"model": "tiny", "file": file, **more})
    assert answer.status_code == status, answer.text
    told: dict[str, Any] = answer.json()
    return told if status == 200 else dict(told["error"])


def go_on(site: Site, stop: threading.Event | None = None) -> None:
    """What a thread of the dispatcher does, once."""
    row = take(site.context)
    assert row is not None
    work(site.context, row, stop or threading.Event())


def look(project: Project, name: str) -> dict[str, Any]:
    """How an evaluation is told."""
    answer = project.client().get(f"{PATH}/{name}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())
