"""A run that is killed, paused or terminated anywhere ends as one that nobody touched, and repeats no measurement."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from real_worker import Place, RealRun, write_labelled

from tunesmith.cli import main
from tunesmith.runs.control import write_wish
from tunesmith.runs.events import Event

ADAPTER = "adapter/adapter_model.safetensors"
RECIPE = {
    "data": {"train": "rows.csv", "validation": 0.25},
    "technique": {"name": "lora", "dropout": 0.1},
    "train": {"epochs": 6, "checkpoint_every_steps": 3, "tokens_per_step": 900},
    "evaluate": {"max_new_tokens": 100},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place.make(tmp_path_factory.mktemp("resume"))
    write_labelled(place.folder / "rows.csv", 32)
    return place


@pytest.fixture(scope="module")
def whole(place: Place) -> RealRun:
    return place.run("whole", RECIPE).done()


def in_state(state: str) -> Callable[[list[Event]], bool]:
    return lambda events: any(event.data.get("state") == state for event in events if event.type == "status")


def told(kind: str) -> Callable[[list[Event]], bool]:
    return lambda events: any(event.type == kind for event in events)


def assert_same_result(run: RealRun, whole: RealRun) -> None:
    assert run.states[-1] == "finished"
    assert (run.folder.path / ADAPTER).read_bytes() == (whole.folder.path / ADAPTER).read_bytes()
    for name in ("base", "tuned"):
        kept, expected = (
            json.loads((each.folder.evaluation / f"{name}.json").read_text())["measured"] for each in (run, whole)
        )
        assert (kept["losses"], kept["answers"]) == (expected["losses"], expected["answers"])
    assert not list(run.folder.path.glob(".*"))


def test_a_run_killed_at_every_stage_is_resumed_to_the_same_weights(
    place: Place, whole: RealRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = place.run("killed", RECIPE)
    for found in (in_state("preparing"), in_state("evaluating_base"), told("checkpoint"), in_state("evaluating")):
        worker = run.start()
        worker.until(found)
        worker.kill()
        assert worker.wait() == -signal.SIGKILL
        assert not run.folder.manifest.exists()
    # What a kill in the middle of writing the adapter leaves.
    (run.folder.path / ".adapter.scratch-0").mkdir()
    base = (run.folder.evaluation / "base.json").stat().st_mtime_ns
    monkeypatch.chdir(place.folder)
    monkeypatch.setenv("TUNESMITH_CACHE", str(place.folder / "cache"))
    # As the attempts before it; with other threads, sums are rounded in another order.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert main.run(["runs", "resume", "killed"]) == 0, capsys.readouterr().err
    assert (run.folder.evaluation / "base.json").stat().st_mtime_ns == base
    assert len({event.attempt for event in run.events}) == 5
    steps = [event.step for event in run.events if event.type == "step" and event.attempt == 5]
    assert steps[:1] != [1]
    assert_same_result(run, whole)


def test_a_pause_before_training_is_heard_while_rows_are_read(place: Place) -> None:
    run = place.run("early", RECIPE)
    write_wish(run.folder.control, "pause")
    assert run.work() == 130
    assert run.states == ["started", "preparing", "stopped"]


def test_a_run_paused_and_terminated_anywhere_is_resumed_to_the_same_weights(place: Place, whole: RealRun) -> None:
    run = place.run("paused", RECIPE)

    def stop(found: Callable[[list[Event]], bool], *, by_signal: bool) -> None:
        write_wish(run.folder.control, "continue")
        worker = run.start()
        worker.until(found)
        if by_signal:
            worker.send(signal.SIGTERM)
        else:
            write_wish(run.folder.control, "pause")
        assert worker.wait() == 130
        assert run.states[-1] == "stopped"

    stop(in_state("evaluating_base"), by_signal=True)
    assert not (run.folder.evaluation / "base.json").exists()
    stop(told("step"), by_signal=False)
    saved = [event.step for event in run.events if event.type == "checkpoint"]
    assert saved[-1] == max(event.step for event in run.events if event.type == "step")
    stop(told("step"), by_signal=True)
    base = (run.folder.evaluation / "base.json").stat().st_mtime_ns
    stop(in_state("evaluating"), by_signal=False)
    write_wish(run.folder.control, "continue")
    run.done()
    assert (run.folder.evaluation / "base.json").stat().st_mtime_ns == base
    assert_same_result(run, whole)


def test_a_cancelled_run_is_over(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    run = place.run("cancelled", RECIPE)
    worker = run.start()
    worker.until(told("step"))
    write_wish(run.folder.control, "cancel")
    assert worker.wait() == 130
    assert run.states[-1] == "cancelled"
    monkeypatch.chdir(place.folder)
    assert main.run(["runs", "resume", "cancelled"]) == 15


def test_a_run_that_was_killed_before_its_last_word_is_finished(place: Place, whole: RealRun) -> None:
    lines = whole.folder.events.read_text().splitlines(keepends=True)
    whole.folder.events.write_text("".join(lines[:-1]))
    manifest = whole.folder.manifest.read_bytes()
    assert whole.states[-1] == "reporting"
    assert whole.work() == 0
    assert whole.states[-1] == "finished"
    assert whole.folder.manifest.read_bytes() == manifest


def corrupt(path: Path) -> None:
    content = bytearray((path / "weights.safetensors").read_bytes())
    content[-5] ^= 1
    (path / "weights.safetensors").write_bytes(content)


def test_a_broken_checkpoint_is_passed_over_and_only_broken_ones_are_an_error(place: Place, whole: RealRun) -> None:
    run = place.run("broken", RECIPE)
    worker = run.start()
    worker.until(lambda events: sum(event.type == "checkpoint" for event in events) == 2)
    worker.kill()
    worker.wait()
    saved = sorted(path for path in run.folder.checkpoints.iterdir() if path.name.startswith("step"))
    for path in saved:
        corrupt(path)
    assert run.work() == 16
    assert (run.error["code"], run.error["place"]) == ("checkpoint.broken", str(run.folder.checkpoints))
    assert run.error["hint"]
    corrupt(saved[0])  # the same bit again: it is whole now
    run.done()
    assert f"{saved[-1].name} is broken" in run.warnings["checkpoint.broken"]
    assert_same_result(run, whole)


def test_a_disk_that_takes_no_more_is_named_and_the_run_goes_on_once_there_is_room(
    place: Place, whole: RealRun
) -> None:
    run = place.run("full-disk", {**RECIPE, "evaluate": {"max_new_tokens": 4}})
    assert run.work(file_bytes=60_000) == 14
    assert run.error["code"].startswith("output.")
    assert run.error["place"]
    assert run.error["hint"]
    assert not list(run.folder.path.glob("adapter*"))
    for path in run.folder.path.rglob("*.json"):
        assert path.name == "lease.json" or json.loads(path.read_text())
    run.done()
    assert (run.folder.path / ADAPTER).read_bytes() == (whole.folder.path / ADAPTER).read_bytes()
