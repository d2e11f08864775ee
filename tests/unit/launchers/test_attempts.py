"""A worker's turn comes when no other lives; which ends are worth another attempt."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tunesmith.errors import CLASSES
from tunesmith.launchers.attempts import exit_code, is_passing, work
from tunesmith.storage.address import open_store
from tunesmith.storage.run_store import RunStore, worker_name
from tunesmith.storage.turn import await_turn


@pytest.fixture
def run(tmp_path: Path) -> RunStore:
    return RunStore(open_store(str(tmp_path / "one")))


def test_the_first_attempt_waits_for_nobody(run: RunStore) -> None:
    assert await_turn(run) == 0


def test_a_worker_of_this_machine_that_is_gone_is_not_waited_for(run: RunStore) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert run.take_attempt(worker_name(process.pid)) == 1
    assert await_turn(run) == 1
    last = run.last_attempt()
    assert last is not None
    assert last.code is not None
    assert run.take_attempt("the next") == 2


@pytest.mark.parametrize("worker", ["process 1 on another machine", "somebody else"])
def test_others_are_waited_for_until_they_end_or_fall_silent(run: RunStore, worker: str) -> None:
    run.take_attempt(worker)
    asked = iter([False, False, True])
    assert await_turn(run, lambda: next(asked)) == 1
    last = run.last_attempt()
    assert last is not None
    assert last.code is None
    run.end(1, 0)
    assert await_turn(run) == 1


def test_a_living_worker_of_this_machine_is_waited_for(run: RunStore) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        run.take_attempt(worker_name(process.pid))
        asked = iter([False, True])
        await_turn(run, lambda: next(asked))
        last = run.last_attempt()
        assert last is not None
        assert last.code is None
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
    await_turn(run)
    last = run.last_attempt()
    assert last is not None
    assert last.code is not None


def test_a_worker_that_refuses_is_not_tried_again() -> None:
    codes = {cls.__name__: cls.exit_code for cls in CLASSES}
    assert is_passing(-9)
    assert is_passing(codes["NetworkError"])
    assert not is_passing(0)
    assert not any(is_passing(codes[name]) for name in ("DataError", "SupervisionError", "RunError", "Stopped"))
    assert exit_code(-9) == codes["WorkerError"]
    assert exit_code(12) == 12


def test_the_workers_own_refusal_is_its_exit_code(tmp_path: Path) -> None:
    """The worker is the real one; another lives already, so it refuses."""
    url = (tmp_path / "one").as_uri()
    run = RunStore(open_store(url))
    run.take_attempt("process 1 on another machine")
    assert work(url, "train") == 15
