"""A run in a store: the worker keeps a copy on its machine equal to it, and another goes on where it was killed."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import storage_servers
from real_worker import ENDLESS, Place, Working, server, write_labelled

from tunesmith.errors import RunError, Stopped
from tunesmith.runs.events import Event, read_events
from tunesmith.runs.layout import RunFolder
from tunesmith.storage.address import open_store
from tunesmith.storage.mirror import pull_events, pull_files, put_run
from tunesmith.storage.run_store import RunStore, safe_path

PATIENCE_SECONDS = 120.0
JOB = {"format": 1, "name": "one", "key": "a"}


@pytest.fixture(params=["file", pytest.param("s3", marks=pytest.mark.slow), pytest.param("az", marks=pytest.mark.slow)])
def storage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "file":
        yield f"file://{tmp_path / 'mounted'}"
        return
    with getattr(storage_servers, f"serve_{request.param}")(tmp_path, monkeypatch) as url:
        yield f"{url}/runs"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place.make(tmp_path)


class Remote:
    """A run in a store, with a folder in which one reads along."""

    def __init__(self, place: Place, storage: str, epochs: int, **train: Any) -> None:
        rows = write_labelled(place.folder / "rows.csv", 32)
        recipe = {
            "model": "inputs/model",
            "data": {"train": "inputs/rows.csv", "validation": 0.25},
            "technique": {"name": "lora", "rank": 4},
            "train": {
                "epochs": epochs,
                "learning_rate": 0.01,
                "tokens_per_step": 600,
                "precision": "float32",
                "checkpoint_every_steps": 5,
                **train,
            },
            "evaluate": {"max_new_tokens": 4, "few_shot": 0, "samples": 2},
        }
        inputs = {f"inputs/model/{path.name}": path for path in place.model.iterdir()}
        self.url = f"{storage}/one"
        self.store = RunStore(open_store(self.url))
        assert put_run(self.store, json.dumps(recipe), {"inputs/rows.csv": rows, **inputs}, JOB)
        assert not put_run(self.store, json.dumps(recipe), {}, JOB)
        self.place = place
        self.here = RunFolder(place.folder / "here")
        self.here.path.mkdir(exist_ok=True)

    def start(self, stage: str = "train", *more: str) -> Working:
        pid = server().ask(
            arguments=[self.url, "--stage", stage, *more],
            cwd=str(self.place.folder),
            log=str(self.place.folder / "worker.log"),
            file_bytes=None,
        )
        return Working(self.place.folder, pid, 0)

    @property
    def events(self) -> list[Event]:
        pull_events(self.store, self.here)
        return list(read_events(self.here.events))

    def until(self, found: Callable[[list[Event]], Any]) -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        while not found(self.events):
            assert time.monotonic() < end, (self.events[-2:], self.log()[-2000:])
            time.sleep(0.1)

    def log(self) -> str:
        return (self.place.folder / "worker.log").read_text()


def states(events: list[Event]) -> list[str]:
    return [event.data["state"] for event in events if event.type == "status"]


def test_a_run_is_done_and_its_result_is_in_the_store(place: Place, storage: str) -> None:
    remote = Remote(place, storage, 2)
    assert remote.start().wait() == 0, remote.log()
    assert states(remote.events)[-1] == "finished"
    assert [event.seq for event in remote.events] == list(range(1, len(remote.events) + 1))
    attempt = remote.store.last_attempt()
    assert attempt is not None
    assert (attempt.number, attempt.code) == (1, 0)
    came = pull_files(remote.store, remote.here, lambda path: not path.startswith("checkpoints/"))
    assert came[-1] == "manifest.json"
    assert (remote.here.adapter / "adapter_model.safetensors").is_file()
    assert remote.here.report_html.is_file()
    assert not remote.here.checkpoints.exists()
    assert pull_files(remote.store, remote.here, lambda path: path.startswith("adapter/")) == []
    # A second worker finds that there is nothing to do.
    assert remote.start().wait() == 0
    assert states(remote.events)[-1] == "finished"


@pytest.mark.slow
def test_a_worker_that_is_killed_is_followed_by_one_that_goes_on(
    place: Place, storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = Remote(place, storage, ENDLESS)
    first = remote.start()
    remote.until(lambda events: any(event.type == "checkpoint" for event in events))
    listed = remote.store
    remote.until(lambda _: any(path.endswith("/manifest.json") for path in _listed(listed)))
    # While it lives, nobody else begins.
    assert remote.start().wait() == RunError.exit_code
    assert "another worker owns this run" in remote.log()
    first.kill()
    assert first.wait() == -signal.SIGKILL
    steps = [event.step for event in remote.events if event.type == "step"]
    # Its silence is known only after a while; nobody wants to wait for it here.
    remote.store.end(1, 137)
    second = remote.start()
    remote.until(lambda events: any(event.attempt == 2 and event.type == "step" for event in events))
    first_step = next(event.step for event in remote.events if event.attempt == 2 and event.type == "step")
    assert 1 < first_step <= max(steps) + 1
    remote.store.write_wish("pause")
    assert second.wait() != 0
    assert states(remote.events)[-1] == "stopped"
    attempt = remote.store.last_attempt()
    assert attempt is not None
    assert attempt.number == 2
    assert not attempt.is_alive()


def test_a_worker_that_was_taken_for_dead_writes_nothing_more(place: Place, storage: str) -> None:
    remote = Remote(place, storage, ENDLESS)
    worker = remote.start()
    remote.until(lambda events: any(event.type == "step" for event in events))
    remote.store.end(1, 137)
    assert remote.store.take_attempt("somebody else") == 2
    assert worker.wait() == RunError.exit_code
    assert "another worker has taken this run over" in remote.log()
    attempt = remote.store.last_attempt()
    assert attempt is not None
    assert (attempt.number, attempt.code) == (2, None)


@pytest.mark.parametrize("path", ["/etc/passwd", "../up", "a/../../b", "", "C:/x", "a\\b"])
def test_paths_lead_nowhere_else(path: str) -> None:
    with pytest.raises(RunError):
        safe_path(path)


def _listed(store: RunStore) -> list[str]:
    return list(store.files())


def test_a_worker_waits_for_the_silence_of_the_last_one(place: Place, storage: str) -> None:
    remote = Remote(place, storage, 2)
    assert remote.store.take_attempt("somebody who died") == 1
    remote.store.beat(1)
    worker = remote.start("train", "--patience", "60")
    time.sleep(1.0)
    last = remote.store.last_attempt()
    assert last is not None
    assert last.number == 1
    remote.store.end(1, 137)
    assert worker.wait() == 0, remote.log()
    assert states(remote.events)[-1] == "finished"


def test_a_run_that_was_asked_to_end_ends_well_where_that_is_wanted(place: Place, storage: str) -> None:
    remote = Remote(place, storage, ENDLESS)
    worker = remote.start("train", "--asked-is-well")
    remote.until(lambda events: any(event.type == "step" for event in events))
    # Nobody asked the run: a machine was taken away, and another is to go on.
    worker.send(signal.SIGTERM)
    assert worker.wait() == Stopped.exit_code
    worker = remote.start("train", "--asked-is-well")
    remote.until(lambda events: any(event.attempt == 2 and event.type == "step" for event in events))
    remote.store.write_wish("pause")
    assert worker.wait() == 0, remote.log()
    assert states(remote.events)[-1] == "stopped"


def test_a_machine_that_comes_when_the_run_is_over_has_nothing_to_do(place: Place, storage: str) -> None:
    remote = Remote(place, storage, 2, nodes=2)
    guest = remote.start("node")
    remote.store.write_wish("cancel")
    assert guest.wait() == 0, remote.log()
    alone = Remote(place, f"{storage}/alone", 2)
    assert alone.start("node").wait() == RunError.exit_code
    assert "wants one machine" in alone.log()
