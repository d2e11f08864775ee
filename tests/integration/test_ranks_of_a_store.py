"""A training of several processes whose run lies in a store: what ends it is told there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from real_worker import Place, write_labelled

from tunesmith.errors import WorkerError
from tunesmith.runs.events import read_events
from tunesmith.runs.layout import RunFolder
from tunesmith.storage.address import open_store
from tunesmith.storage.mirror import pull_events, put_run
from tunesmith.storage.run_store import RunStore

RECIPE = {
    "model": "inputs/model",
    "data": {"train": "inputs/rows.csv", "validation": 0.25},
    "technique": {"name": "lora", "rank": 4},
    "strategy": "ddp",
    "train": {"epochs": 3, "tokens_per_step": 600, "precision": "float32", "devices": 2},
    "evaluate": {"max_new_tokens": 4, "few_shot": 0, "samples": 2},
}
# Gloo notices at once that a process is gone. Here nothing does: the worker's own step never comes back.
STUCK = """
import os
import signal
import sys
import time
import psutil
from tunesmith import worker
from tunesmith.engine import train

step, taken = train.take_step, []

def stuck(*arguments, **settings):
    if taken:
        (other,) = [one for one in psutil.Process().children() if "tunesmith.worker" in " ".join(one.cmdline())]
        other.send_signal(signal.SIGKILL)
        time.sleep(600)
    taken.append(step(*arguments, **settings))
    return taken[0]

train.take_step = stuck
sys.exit(worker.main([sys.argv[1]]))
"""


@pytest.mark.slow
def test_what_ends_a_training_that_is_stuck_is_in_the_store(tmp_path: Path) -> None:
    place = Place.make(tmp_path)
    rows = write_labelled(tmp_path / "rows.csv", 32)
    url = (tmp_path / "mounted" / "one").as_uri()
    run = RunStore(open_store(url))
    inputs = {f"inputs/model/{path.name}": path for path in place.model.iterdir()}
    put_run(run, json.dumps(RECIPE), {"inputs/rows.csv": rows, **inputs}, {"format": 1, "name": "one", "key": "a"})
    environment = {**os.environ, "TUNESMITH_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", STUCK, url],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == WorkerError.exit_code, done.stderr[-2000:]
    here = RunFolder(tmp_path / "here")
    here.path.mkdir()
    pull_events(run, here)
    events = list(read_events(here.events))
    assert [event.type for event in events[-3:]] == ["step", "status", "error"]
    assert events[-1].data["code"] == "worker.rank_died"
    assert "rank 1: SIGKILL" in json.dumps(events[-1].data)
    attempt = run.last_attempt()
    assert attempt is not None
    assert attempt.code == WorkerError.exit_code
    assert not attempt.is_alive()
