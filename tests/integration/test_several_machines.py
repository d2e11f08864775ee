"""Two machines, both this one, share a training: the second lends itself by `tunesmith join`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from real_worker import Place, RealRun, Working, write_labelled
from safetensors.torch import load_file
from torch.testing import assert_close

from tunesmith.errors import ResourceError, Stopped, UsageError
from tunesmith.pipeline.machines import Guest, Guests, find_invitation, invite, is_of
from tunesmith.pipeline.meeting import RankJob, address_for, open_store, reach_store
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


@pytest.mark.slow
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


@pytest.mark.slow
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
    run = place.run("taken", {**SHARED, "train": {**SHARED["train"], "epochs": 100}})
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


@pytest.fixture
def meeting(tmp_path: Path) -> Iterator[tuple[Guests, Callable[[], Guest], list[Guest]]]:
    """The worker's side of a meeting, and how another machine comes to it."""
    store = open_store(RankJob(1, (), nodes=2))
    guests: list[Guest] = []

    def come() -> Guest:
        guests.append(Guest(reach_store("127.0.0.1", store.port)))
        return guests[-1]

    invite(tmp_path, store, RankJob(1, (), nodes=2, port=store.port))
    yield Guests(reach_store("127.0.0.1", store.port)), come, guests
    for guest in guests:
        guest.leave()


def test_a_machine_too_many_is_sent_away(meeting: Any) -> None:
    host, come, _ = meeting
    first, second = come(), come()
    host.wait(2, lambda: False)
    assert first.await_place(lambda: False) == 1
    with pytest.raises(UsageError, match="all the machines"):
        second.await_place(lambda: False)


def test_a_machine_that_left_before_the_training_is_not_counted(meeting: Any) -> None:
    host, come, _ = meeting
    come().leave()
    with pytest.raises(Stopped):
        host.wait(2, iter([False, False, True]).__next__)
    second = come()
    host.wait(2, lambda: False)
    assert second.await_place(lambda: False) == 1


def test_a_machine_that_falls_silent_is_missed(meeting: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith.pipeline.machines._LOST_SECONDS", 1.5)
    host, come, _ = meeting
    guest = come()
    host.wait(2, lambda: False)
    assert host.error() is None
    # As one that is switched off.
    guest._left.set()
    time.sleep(2.5)
    error = host.error()
    assert error is not None
    assert "machine 2" in str(error)


def test_the_first_word_of_what_went_wrong_counts(meeting: Any) -> None:
    host, come, _ = meeting
    guest = come()
    host.wait(2, lambda: False)
    guest.tell(ResourceError("not enough memory", code="resource.memory"))
    guest.tell(ResourceError("something later", code="resource.later"))
    error = host.error()
    assert error is not None
    assert error.code == "resource.memory"


def test_who_waits_too_long_is_told_how_many_came(meeting: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith.pipeline.machines._OTHERS_SECONDS", 0.3)
    with pytest.raises(ResourceError, match="1 of 2 are there"):
        meeting[0].wait(2, lambda: False)


def test_a_store_of_another_run_is_not_taken_for_the_one_that_invited(tmp_path: Path) -> None:
    stores = [open_store(RankJob(1, (), nodes=2)) for _ in range(2)]
    for name, store in zip(("a", "b"), stores, strict=True):
        (tmp_path / name).mkdir()
        invite(tmp_path / name, store, RankJob(1, (), nodes=2, port=store.port))
    first = find_invitation(tmp_path / "a")
    assert first is not None
    assert is_of(stores[0], first)
    assert not is_of(stores[1], first)


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="no address"):
        address_for(2, "no.such.machine.invalid")
    assert address_for(1, "auto") == "127.0.0.1"
    assert address_for(2, "127.0.0.1") == "127.0.0.1"


@pytest.mark.slow
def test_who_would_wait_for_ever_is_told_so(place: Place, alone: RealRun) -> None:
    run = place.run("one-machine", RECIPE)
    code, said = join(run).end()
    assert code != 0
    assert "wants one machine" in said
    run = place.run("cancelled", SHARED)
    write_wish(run.folder.control, "cancel")
    code, said = join(run).end()
    assert code != 0
    assert "cancelled" in said


@pytest.mark.slow
def test_a_machine_that_cannot_work_ends_the_meeting_with_its_reason(place: Place) -> None:
    """The other machine does not find the data."""
    run = place.run("no-data", SHARED)
    worker = run.start()
    worker.until(lambda events: any(event.data.get("state") == "meeting" for event in events))
    rows = place.folder / "rows.csv"
    moved = rows.rename(rows.with_suffix(".away"))
    try:
        machine = join(run)
        assert worker.wait() != 0
        assert machine.end()[0] != 0
    finally:
        moved.rename(rows)
    (error,) = [event for event in run.events if event.type == "error"]
    assert error.data["code"] == "data.missing"
