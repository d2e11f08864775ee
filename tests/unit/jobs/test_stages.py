"""Stages in scratch folders."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import fake_worker
import pytest

from tunesmith.errors import ModelError, SupervisionError, WorkerError
from tunesmith.executors.local.worker import SCRATCH_PREFIX
from tunesmith.jobs import stages


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    """A temporary folder of the test's own, so that what is left in it is seen."""
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


@pytest.fixture
def plan(tmp_path, monkeypatch):
    def write(actions: list[list]) -> None:
        (tmp_path / "plan.json").write_text(json.dumps(actions))
        monkeypatch.setenv("FAKE_PLAN", str(tmp_path / "plan.json"))

    return write


def ignore(_event) -> None:
    return None


def test_audit_brings_back_what_the_worker_wrote_and_leaves_nothing(plan, scratch):
    plan(
        [
            ["event", "status", None, {"state": "auditing"}],
            ["write", "audit.json", {"ok": True}],
            ["write", "resolved.json", {"portable": {}}],
        ]
    )
    seen = []
    result = stages.audit("model: tiny\n", seen.append, show=3, command=fake_worker.COMMAND)
    assert (result.audit, result.resolved, result.error) == ({"ok": True}, {"portable": {}}, None)
    assert [event.data for event in seen] == [{"state": "auditing"}]
    assert list(scratch.iterdir()) == []


def test_a_failed_audit_brings_its_findings_and_its_error(plan):
    error = SupervisionError("2 rows have nothing to learn", code="supervision.nothing_trained")
    plan([["write", "audit.json", {"ok": False}], ["event", "error", None, error.to_json()], ["exit", 12]])
    result = stages.audit("model: tiny\n", ignore, command=fake_worker.COMMAND)
    assert result.audit == {"ok": False}
    assert result.error is not None
    assert result.error.code == "supervision.nothing_trained"


def test_pull_tells_where_the_model_lies(plan):
    plan([["event", "artifact", None, {"kind": "model", "path": "/models/tiny", "adapter": None}]])
    assert str(stages.pull("tiny", ignore, command=fake_worker.COMMAND).folder) == "/models/tiny"


def test_every_stage_tells_its_worker_where_runs_lie(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program = (
        "import pathlib, sys\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        f"asked = pathlib.Path({str(tmp_path)!r}, sys.argv[3])\n"
        "asked.write_bytes((folder / 'request.json').read_bytes())\n"
        "(folder / 'audit.json').write_text('{}')\n"
        "(folder / 'report.json').write_text('{}')\n"
    )
    options = {"runs_folder": Path("elsewhere"), "command": [sys.executable, "-c", program]}
    stages.audit("model: first\n", ignore, **options)
    with pytest.raises(WorkerError, match="the model's place"):
        stages.pull("first", ignore, **options)
    with stages.evaluate({"model": "first"}, ignore, **options):
        pass
    for stage in ("audit", "pull", "evaluate"):
        assert json.loads((tmp_path / stage).read_bytes())["runs_folder"] == str(tmp_path / "elsewhere")


def test_errors_come_through_and_silence_is_an_error(plan, scratch):
    plan([["event", "error", None, ModelError("no such model", code="model.unknown").to_json()], ["exit", 13]])
    with pytest.raises(ModelError, match="no such model"):
        stages.pull("tyni", ignore, command=fake_worker.COMMAND)
    plan([["print", "hm"]])
    with pytest.raises(WorkerError, match=r"did not write audit\.json"):
        stages.audit("model: tiny\n", ignore, command=fake_worker.COMMAND)
    plan([["print", "Segmentation fault"], ["exit", 139]])
    with pytest.raises(WorkerError) as raised:
        stages.audit("model: tiny\n", ignore, command=fake_worker.COMMAND)
    assert "Segmentation fault" in raised.value.value
    assert raised.value.hint is None, "the log that it would name is gone"
    assert list(scratch.iterdir()) == []


def test_evaluate_hands_out_a_folder_for_the_block(plan):
    plan([["write", "report.json", {"format": 1}]])
    with stages.evaluate({"model": "tiny"}, ignore, command=fake_worker.COMMAND) as folder:
        assert json.loads((folder / "request.json").read_text()) == {"model": "tiny"}
        assert (folder / "report.json").exists()
    assert not folder.exists()


@pytest.mark.parametrize("stage", [stages.evaluate, stages.benchmark])
def test_who_waits_for_a_measurement_is_asked_and_may_end_it(plan, scratch, tmp_path, stage):
    """Also while the worker says nothing; and its relative paths begin where the request's do."""
    plan([["sleep", 60]])
    seen = []

    def stop() -> None:
        (folder,) = scratch.iterdir()
        seen.append(json.loads((folder / "launch.json").read_text()))
        raise KeyboardInterrupt

    options = {"on_poll": stop, "working_folder": tmp_path, "command": fake_worker.COMMAND}
    with pytest.raises(KeyboardInterrupt), stage({"model": "tiny"}, ignore, **options):
        pass
    assert [one["working_folder"] for one in seen] == [str(tmp_path)]
    with pytest.raises(ProcessLookupError):
        os.kill(seen[0]["pid"], 0)
    assert list(scratch.iterdir()) == []


def test_an_interrupted_stage_takes_its_worker_with_it(plan, scratch):
    plan([["event", "status", None, {"state": "auditing"}], ["sleep", 30]])
    pids = []

    def interrupt(_event) -> None:
        (folder,) = scratch.iterdir()
        pids.append(json.loads((folder / "launch.json").read_text())["pid"])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stages.audit("model: tiny\n", interrupt, command=fake_worker.COMMAND)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)
    assert list(scratch.iterdir()) == []


def test_leftovers_of_killed_commands_are_removed_and_those_of_living_ones_stay(scratch):
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    dead, living = (scratch / f"{SCRATCH_PREFIX}{pid}-x" for pid in (gone.pid, os.getpid()))
    dead.mkdir()
    living.mkdir()
    with stages.scratch_folder() as own:
        assert sorted(scratch.iterdir()) == sorted([living, own])
