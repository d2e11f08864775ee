"""Two machines, both this one, that share no disk: the second takes part in a run that lies in a store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from real_worker import Place, Working, server, write_labelled

from tunesmith.runs.events import read_events
from tunesmith.runs.layout import RunFolder
from tunesmith.storage.address import open_store
from tunesmith.storage.mirror import pull_events, put_run
from tunesmith.storage.run_store import RunStore

RECIPE = {
    "model": "inputs/model",
    "data": {"train": "inputs/rows.csv", "validation": 0.25},
    "technique": {"name": "lora", "rank": 4},
    "train": {
        "epochs": 3,
        "learning_rate": 0.01,
        "tokens_per_step": 600,
        "precision": "float32",
        "nodes": 2,
        "address": "127.0.0.1",
    },
    "evaluate": {"max_new_tokens": 4, "few_shot": 0, "samples": 2},
}


@pytest.mark.slow
def test_a_machine_takes_part_by_the_runs_address(tmp_path: Path) -> None:
    place = Place.make(tmp_path)
    rows = write_labelled(tmp_path / "rows.csv", 32)
    url = (tmp_path / "mounted" / "one").as_uri()
    run = RunStore(open_store(url))
    inputs = {f"inputs/model/{path.name}": path for path in place.model.iterdir()}
    put_run(run, json.dumps(RECIPE), {"inputs/rows.csv": rows, **inputs}, {"format": 1, "name": "one", "key": "a"})
    working = {}
    for stage in ("node", "train"):
        log = tmp_path / f"{stage}.log"
        pid = server().ask(arguments=[url, "--stage", stage], cwd=str(tmp_path), log=str(log), file_bytes=None)
        working[stage] = Working(tmp_path, pid, 0)
    for stage, worker in working.items():
        assert worker.wait() == 0, (tmp_path / f"{stage}.log").read_text()
    assert "machine 2 of 2: 1 of 2 processes train here" in (tmp_path / "node.log").read_text()
    here = RunFolder(tmp_path / "here")
    here.path.mkdir()
    pull_events(run, here)
    assert list(read_events(here.events))[-1].data["state"] == "finished"
    assert "meeting.json" not in run.files()
    # A run that is over has no work for anybody.
    log = tmp_path / "late.log"
    late = server().ask(arguments=[url, "--stage", "node"], cwd=str(tmp_path), log=str(log), file_bytes=None)
    assert Working(tmp_path, late, 0).wait() == 0
    assert "finished" in log.read_text()
