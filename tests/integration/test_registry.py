"""The registry with real runs: checkpoints become usable, also while training goes on, and versions are models."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from real_worker import ENDLESS, Place, write_labelled
from safetensors.torch import load_file

from tunesmith.catalog.registered import find_registered
from tunesmith.jobs.registry import Wanted, register
from tunesmith.models.prepare import ensure_model_folder
from tunesmith.storage.folder import LocalStore

STEPS = {"checkpoint_every_steps": 2, "keep_checkpoints": 50}


@pytest.fixture
def place(tmp_path, monkeypatch) -> Place:
    found = Place.make(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    write_labelled(tmp_path / "train.csv", 40)
    return found


def ignore(_event) -> None:
    return


@pytest.mark.parametrize(
    ("technique", "folder"), [("lora", "adapter"), pytest.param("full", "model", marks=pytest.mark.slow)]
)
def test_a_checkpoint_becomes_what_training_would_have_saved_there(technique, folder, place):
    run = place.run("one", {"data": {"train": "train.csv"}, "technique": technique, "train": STEPS}).done()
    steps = sorted(int(path.name[5:]) for path in run.folder.checkpoints.iterdir())
    stage = place.stage("checkpoint", {"run": str(run.folder.path), "steps": [steps[0], steps[-1]]})
    shutil.copytree(run.folder.checkpoints, stage.folder.path / "checkpoints")
    before = {path: path.stat().st_mtime_ns for path in run.folder.path.rglob("*")}
    stage.done()
    assert {path: path.stat().st_mtime_ns for path in run.folder.path.rglob("*")} == before

    def weights(path: Path) -> dict[str, torch.Tensor]:
        (file,) = path.glob("*.safetensors")
        return load_file(file)

    saved = weights(run.folder.path / folder)
    usable = stage.folder.path / "usable"
    last, first = (weights(usable / f"step-{step:08d}" / folder) for step in (steps[-1], steps[0]))
    assert all(torch.equal(saved[name], last[name]) for name in saved | last)
    assert any(not torch.equal(saved[name], first[name]) for name in saved)
    names = {path.name for path in (usable / f"step-{steps[0]:08d}" / folder).iterdir()}
    assert {path.name for path in (run.folder.path / folder).iterdir()} == names

    # The worker finds a registered model by its address, also when the run is gone.
    store = LocalStore(place.folder / "registry")
    register(store, "one", place.folder / "runs", Wanted("router", checkpoints=False), ignore)
    shutil.rmtree(run.folder.path)
    shutil.move(place.model, place.folder / "away")
    prepared = ensure_model_folder("router:1", place.folder / "runs", lambda *_: None)
    assert all(torch.equal(saved[name], weights(prepared.adapter or prepared.folder)[name]) for name in saved)
    if technique == "lora":
        return
    again = place.run("two", {"model": "router:1", "data": {"train": "train.csv"}}).done()
    manifest = json.loads(again.folder.manifest.read_text())
    assert manifest["model"]["name"] == "router:1"
    register(store, "two", place.folder / "runs", Wanted("router", checkpoints=False), ignore)
    child = find_registered("router:2", store).version.record
    assert child is not None
    assert child.parent == "router:1"


def tunesmith(*arguments: str) -> dict:
    """A command with --json in a process of its own."""
    command = [sys.executable, "-c", "from tunesmith.cli.main import main; main()", *arguments, "--json"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout)


@pytest.mark.slow
def test_checkpoints_are_usable_while_training_goes_on_and_outlive_the_run(place):
    recipe = {
        "data": {"train": "train.csv"},
        "train": {"epochs": ENDLESS, "checkpoint_every_steps": 5, "keep_checkpoints": 1},
    }
    run = place.run("long", recipe)
    worker = run.start()
    worker.until(lambda events: any(event.type == "checkpoint" for event in events))
    made = tunesmith("registry", "register", "long", "--name", "router", "--stage", "staging")
    assert made["state"] == "training"
    # A run that trains so fast removes a checkpoint before anybody can name it.
    worker.send(signal.SIGSTOP)
    try:
        available = tunesmith("registry", "show", "router:1")["checkpoints"]["available"]
        step = available[-1]
        report = tunesmith("eval", f"router:1@{step}", "--data", "train.csv", "--rows", "4")
    finally:
        worker.send(signal.SIGCONT)
    assert [system["name"] for system in report["systems"]] == ["base", "tuned"]
    tunesmith("runs", "pause", "long")
    worker.wait()
    assert tunesmith("registry", "show", "router:1")["checkpoints"]["kept"] == [step]
    tunesmith("runs", "remove", "long", "--yes")
    again = tunesmith("eval", f"router:1@{step}", "--data", "train.csv", "--rows", "4")
    assert [system["loss"] for system in again["systems"]] == [system["loss"] for system in report["systems"]]
