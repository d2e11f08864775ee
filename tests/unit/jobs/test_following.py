"""Workers as processes: their events are followed, their end becomes an error, what runs is told from what died."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import fake_worker
import psutil
import pytest

from tunesmith.errors import DataError, ResourceError, RunError, Stopped, WorkerError
from tunesmith.executors.local.worker import start_worker
from tunesmith.jobs import control
from tunesmith.jobs.follow import follow_run, follow_worker, last_seq
from tunesmith.jobs.states import run_status
from tunesmith.runs.control import read_wish

STEP = {"loss": 1.5, "total_steps": 20, "eta_seconds": 7.0}


def status(state: str) -> list:
    return ["event", "status", None, {"state": state}]


def wait_until(condition, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_events_come_in_order_and_a_good_end_raises_nothing(planned):
    run = planned([status("started"), ["event", "step", 1, STEP], ["sleep", 0.3], status("finished")])
    events = list(follow_worker(control.start(run, fake_worker.COMMAND)))
    assert [(event.seq, event.type) for event in events] == [(1, "status"), (2, "step"), (3, "status")]
    assert run_status(run).state == "finished"


def test_the_worker_is_a_session_of_its_own_and_prints_into_the_log(planned):
    run = planned([["print", "loading"], ["sleep", 5]])
    worker = control.start(run, fake_worker.COMMAND)
    try:
        wait_until(lambda: run.log.exists() and run.log.read_text() == "loading\n")
        assert os.getsid(worker.process.pid) == worker.process.pid != os.getsid(0)
    finally:
        worker.terminate()


def test_a_workers_error_is_raised_as_the_worker_raised_it(planned):
    error = DataError("no rows", code="data.empty", place="a.jsonl", hint="add rows")
    run = planned([status("started"), ["event", "error", None, error.to_json()], status("failed"), ["exit", 11]])
    with pytest.raises(DataError) as raised:
        list(follow_worker(control.start(run, fake_worker.COMMAND)))
    assert raised.value.to_json() == error.to_json()
    assert run_status(run).state == "failed"
    assert run_status(run).error == error.to_json()


def test_an_error_of_an_earlier_attempt_is_not_taken_for_this_ones(planned):
    old = DataError("of yesterday", code="data.old")
    run = planned([["event", "error", None, old.to_json()], ["exit", 11]])
    with pytest.raises(DataError):
        list(follow_worker(control.start(run, fake_worker.COMMAND)))
    (run.path / "plan.json").write_text('[["print", "segmentation fault"], ["exit", 3]]')
    with pytest.raises(WorkerError) as raised:
        list(follow_worker(control.start(run, fake_worker.COMMAND), after=last_seq(run)))
    assert raised.value.code == "worker.died"


def test_a_worker_that_says_nothing_is_told_by_its_code_and_log(planned):
    run = planned([["print", "line one"], ["print", "ImportError: torch"], ["exit", 3]])
    with pytest.raises(WorkerError, match="ended with code 3") as raised:
        list(follow_worker(control.start(run, fake_worker.COMMAND)))
    assert raised.value.value.endswith("\n  line one\n  ImportError: torch")
    assert "worker.log" in raised.value.hint
    assert run_status(run).state == "died"


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_killed_worker_is_told_by_its_signal_and_can_be_resumed(planned):
    run = planned([status("training"), ["event", "step", 4, STEP], ["kill"]])
    with pytest.raises(WorkerError, match="SIGKILL") as raised:
        list(follow_worker(control.start(run, fake_worker.COMMAND)))
    assert "memory" in raised.value.hint
    found = run_status(run)
    assert (found.state, found.stage, found.step, found.total_steps) == ("died", "training", 4, 20)
    (run.path / "plan.json").write_text('[["event", "status", null, {"state": "finished"}]]')
    worker = control.resume(run, fake_worker.COMMAND)
    assert [event.attempt for event in follow_worker(worker, after=2)] == [2]
    assert run_status(run).state == "finished"


@pytest.mark.parametrize(
    ("wish", "state", "told"), [("pause", "stopped", "paused"), ("cancel", "cancelled", "cancelled")]
)
def test_a_wish_stops_the_run(planned, wish, state, told):
    run = planned([status("training"), ["wait_for_wish"], status(state), ["exit", 130]])
    worker = control.start(run, fake_worker.COMMAND)
    getattr(control, wish)(run)
    with pytest.raises(Stopped) as raised:
        list(follow_worker(worker))
    assert raised.value.code == f"run.{told}"
    assert run_status(run).state == told


def test_a_new_attempt_forgets_the_last_wish(planned):
    run = planned([["wait_for_wish"], status("stopped"), ["exit", 130]])
    worker = control.start(run, fake_worker.COMMAND)
    control.pause(run)
    with pytest.raises(Stopped):
        list(follow_worker(worker))
    (run.path / "plan.json").write_text('[["event", "status", null, {"state": "finished"}]]')
    worker = control.resume(run, fake_worker.COMMAND)
    assert read_wish(run.control) == "continue"
    assert list(follow_worker(worker, after=1))[-1].data == {"state": "finished"}


def test_a_living_run_is_followed_and_not_started_twice(planned):
    run = planned([status("training"), ["sleep", 0.6], ["event", "step", 1, STEP], status("finished")])
    worker = control.start(run, fake_worker.COMMAND)
    assert run_status(run).state == "running"
    assert control.resume(run, fake_worker.COMMAND) is None
    assert [event.type for event in follow_run(run)] == ["status", "step", "status"]
    assert worker.process.wait() == 0


def test_a_followed_run_of_somebody_else_that_is_killed_raises(planned):
    run = planned([status("training"), ["sleep", 30]])
    worker = control.start(run, fake_worker.COMMAND)
    events = follow_run(run)
    assert next(events).data == {"state": "training"}
    worker.process.kill()
    worker.process.wait()
    with pytest.raises(WorkerError, match="did not say why"):
        next(events)


def test_what_runs_is_not_removed_and_what_is_over_is(planned):
    run = planned([status("training"), ["wait_for_wish"], status("cancelled"), ["exit", 130]])
    worker = control.start(run, fake_worker.COMMAND)
    with pytest.raises(RunError, match="living worker"):
        control.remove(run)
    control.cancel(run)
    worker.process.wait()
    with pytest.raises(RunError, match="cancelled"):
        control.resume(run, fake_worker.COMMAND)
    with pytest.raises(RunError, match="no worker is running"):
        control.pause(run)
    control.remove(run)
    assert not run.path.exists()


def test_a_removal_that_broke_off_can_be_finished(planned):
    run = planned([status("finished")])
    list(follow_worker(control.start(run, fake_worker.COMMAND)))
    run.recipe.unlink()
    control.remove(control.find_removable(run.path.parent, run.name))
    assert not run.path.exists()
    with pytest.raises(RunError, match="no such run"):
        control.find_removable(run.path.parent, run.name)


def test_a_folder_that_is_no_run_is_never_removable(tmp_path):
    (tmp_path / "runs" / "notes").mkdir(parents=True)
    with pytest.raises(RunError, match="no such run"):
        control.find_removable(tmp_path / "runs", "notes")


def test_refused_input_frees_the_name_but_trained_steps_are_kept(planned):
    refused = DataError("one row", code="data.one_row")
    early = planned([["event", "error", None, refused.to_json()], ["exit", 11]], "early")
    late = planned([["event", "step", 1, STEP], ["event", "error", None, refused.to_json()], ["exit", 11]], "late")
    few = ResourceError("fewer GPUs", code="resource.devices")
    large = planned([["event", "error", None, few.to_json()], ["exit", few.exit_code]], "large")
    died = planned([["exit", 3]], "died")
    for run in (early, late, large, died):
        with pytest.raises((DataError, ResourceError, WorkerError)) as raised:
            list(follow_worker(control.start(run, fake_worker.COMMAND)))
        control.discard_if_refused(run, raised.value)
    assert [run.path.exists() for run in (early, late, large, died)] == [False, True, False, True]


def test_a_second_worker_is_refused_by_the_lease(planned):
    run = planned([status("training"), ["wait_for_wish"]])
    first = control.start(run, fake_worker.COMMAND)
    wait_until(run.events.exists)
    second = start_worker(run.path, command=fake_worker.COMMAND)
    assert second.process.wait() != 0
    assert first.exit_code() is None
    control.cancel(run)
    assert first.process.wait() == 0


def test_a_run_starts_again_where_it_was_first_started(planned, tmp_path, monkeypatch):
    run = planned([["sleep", 1]])
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    folders = []
    for place in ("here", "there"):
        monkeypatch.chdir(tmp_path / place)
        worker = control.start(run, fake_worker.COMMAND)
        folders.append(Path(psutil.Process(worker.process.pid).cwd()).name)
        worker.terminate()
    assert folders == ["here", "here"]


def test_another_process_with_the_number_of_a_dead_worker_is_not_taken_for_it(planned):
    run = planned([["exit", 0]])
    worker = control.start(run, fake_worker.COMMAND)
    worker.process.wait()
    launch = run.path / "launch.json"
    launch.write_text(launch.read_text().replace(str(worker.process.pid), str(os.getpid())))
    assert run_status(run).state == "died"


def test_terminating_a_stubborn_worker_ends_it(planned):
    run = planned([["sleep", 30]])
    worker = control.start(run, fake_worker.COMMAND)
    worker.terminate()
    assert worker.exit_code() == -signal.SIGTERM
    worker.terminate()
