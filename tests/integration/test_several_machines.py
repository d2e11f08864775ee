"""Two machines, both this one, share a training: the second lends itself by `tunesmith join`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from real_worker import Place, RealRun, Working, write_labelled
from safetensors.torch import load_file
from torch.testing import assert_close

from tunesmith.errors import ResourceError, Stopped, UsageError
from tunesmith.pipeline.meeting import RankJob, open_store, take_place, wait_for_machines
from tunesmith.runs.control import write_wish
from tunesmith.runs.events import Event

TUNESMITH = Path(sys.executable).with_name("tunesmith")
RECIPE = {
    "data": {"train": "rows.csv", "validation": 0.25},
    "technique": {"name": "lora", "rank": 4},
    "train": {"epochs": 3, "checkpoint_every_steps": 2, "tokens_per_step": 900, "seed": 3},
    "evaluate": {"max_new_tokens": 20, "rows": 6},
}
SHARED = {**RECIPE, "train": {**RECIPE["train"], "nodes": 2, "address": "127.0.0.1"}}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place.make(tmp_path_factory.mktemp("machines"))
    write_labelled(place.folder / "rows.csv", 32)
    return place


@pytest.fixture(scope="module")
def alone(place: Place) -> RealRun:
    return place.run("alone", RECIPE).done()


@dataclass(frozen=True)
class Machine:
    """The command on the other machine."""

    process: subprocess.Popen[str]

    def rank(self) -> psutil.Process:
        """Its process that trains."""
        (rank,) = [
            child
            for child in psutil.Process(self.process.pid).children(recursive=True)
            if child.cmdline()[-1:] == ["rank"]
        ]
        return rank

    def end(self) -> tuple[int, str]:
        said, _ = self.process.communicate(timeout=60)
        return self.process.returncode, said


def join(run: RealRun) -> Machine:
    place = run.place
    return Machine(
        subprocess.Popen(
            [str(TUNESMITH), "join", run.folder.name, "--output", str(place.folder / "runs")],
            cwd=place.folder,
            env={**os.environ, "TUNESMITH_CACHE": str(place.folder / "cache"), "OMP_NUM_THREADS": "1"},
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    )


def told_step(events: Sequence[Event]) -> bool:
    return any(event.type == "step" for event in events)


def require_same_result(run: RealRun, alone: RealRun) -> None:
    assert run.states[-1] == "finished"
    found, expected = (load_file(each.folder.adapter / "adapter_model.safetensors") for each in (run, alone))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert_close(found[name], tensor, rtol=2e-2, atol=2e-3)


def start_both(run: RealRun) -> tuple[Working, Machine]:
    machine = join(run)
    worker = run.start()
    worker.until(told_step)
    return worker, machine


def test_two_machines_give_the_result_of_one(place: Place, alone: RealRun) -> None:
    run = place.run("both", SHARED)
    worker, machine = start_both(run)
    assert worker.wait() == 0
    code, said = machine.end()
    assert code == 0, said
    assert "machine 2 of 2: 1 of 2 processes train here" in said
    assert "meeting" in run.states
    require_same_result(run, alone)
    assert len(run.report["cost"]["rank_memory_bytes"]) == 2
    assert not (run.folder.path / "meeting.json").exists()
    again = join(run)
    code, said = again.end()
    assert code != 0
    assert "finished" in said


def test_a_rank_that_dies_there_is_told_of_here_and_the_run_resumes(place: Place, alone: RealRun) -> None:
    run = place.run("died", SHARED)
    worker, machine = start_both(run)
    machine.rank().send_signal(signal.SIGKILL)
    assert worker.wait() != 0
    (error,) = [event for event in run.events if event.type == "error"]
    assert error.data["code"] == "worker.rank_died"
    assert "rank 1: SIGKILL" in json.dumps(error.data)
    code, said = machine.end()
    assert code != 0
    assert "rank 1: SIGKILL" in said
    worker, machine = start_both(run)
    assert worker.wait() == 0
    assert machine.end()[0] == 0
    require_same_result(run, alone)


@pytest.mark.slow
def test_a_machine_that_is_taken_away_says_so(place: Place) -> None:
    run = place.run("taken", SHARED)
    worker, machine = start_both(run)
    # As a terminal does it at Ctrl-C.
    os.killpg(machine.process.pid, signal.SIGINT)
    assert worker.wait() != 0
    (error,) = [event for event in run.events if event.type == "error"]
    assert "taken from the training" in json.dumps(error.data)
    code, said = machine.end()
    assert code == Stopped.exit_code, said


@pytest.mark.slow
def test_a_pause_is_heard_there_and_while_nobody_came(place: Place) -> None:
    run = place.run("paused", SHARED)
    worker, machine = start_both(run)
    write_wish(run.folder.control, "pause")
    assert worker.wait() == Stopped.exit_code
    assert machine.end()[0] == 0
    write_wish(run.folder.control, "continue")
    worker = run.start()
    worker.until(lambda events: any(event.data.get("state") == "meeting" for event in events))
    write_wish(run.folder.control, "pause")
    assert worker.wait() == Stopped.exit_code
    assert not (run.folder.path / "meeting.json").exists()


def test_a_machine_too_many_is_sent_away() -> None:
    store = open_store(RankJob(1, (), nodes=2))
    store.set("job", "{}")
    assert take_place(store, 2) == (1, "{}")
    with pytest.raises(UsageError, match="all the machines"):
        take_place(store, 2)


def test_who_waits_too_long_is_told_how_many_came(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith.pipeline.meeting._OTHER_MACHINES_SECONDS", 0.3)
    with pytest.raises(ResourceError, match="1 of 2 are there"):
        wait_for_machines(open_store(RankJob(1, (), nodes=2)), 2, lambda: False)


def test_an_address_that_is_none_is_refused_before_anyone_waits() -> None:
    with pytest.raises(UsageError, match="no address"):
        open_store(RankJob(1, (), nodes=2, address="no.such.machine.invalid"))
