"""Exports by the command line, by a recipe, and what is refused before anything is done."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from real_worker import Place, write_labelled

from tunesmith.errors import OutputError, UsageError
from tunesmith.jobs.export import ExportRequest, export


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place.make(tmp_path_factory.mktemp("export"), hidden_size=64, head_dim=16)
    write_labelled(place.folder / "rows.csv", 24)
    write_labelled(place.folder / "held.csv", 6, start=60)
    return place


def test_a_recipe_exports_after_training(place: Place) -> None:
    recipe = {
        "data": {"train": "rows.csv", "validation": "held.csv"},
        "technique": {"name": "lora", "rank": 4},
        "export": ["merged", {"to": "gguf", "precision": "f16"}],
    }
    run = place.run("exported", recipe).done()
    manifest = json.loads(run.folder.manifest.read_text())
    assert [(one["to"], one["precision"], one["path"]) for one in manifest["exports"]] == [
        ("merged", "float32", "exports/merged-float32"),
        ("gguf", "f16", "exports/gguf-f16"),
    ]
    for one in manifest["exports"]:
        record = json.loads((run.folder.path / one["path"] / "export.json").read_text())
        assert record["size_bytes"] == one["size_bytes"]
        assert record["check"]["rows_from"] == "held-out rows of the run"
    assert run.states.count("exporting") >= 2
    assert sorted(path.name for path in run.folder.exports.iterdir()) == ["gguf-f16", "merged-float32"]


def test_a_family_that_cannot_be_exported_is_refused_before_training(tmp_path: Path) -> None:
    place = Place.make(tmp_path, "stablelm")
    write_labelled(place.folder / "rows.csv", 12)
    run = place.run("refused", {"data": {"train": "rows.csv"}, "export": ["gguf"]})
    assert run.work() == 13
    assert run.error["code"] == "export.gguf_family"
    assert "training" not in run.states


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (ExportRequest(["a"], "pt"), "there is no form pt"),
        (ExportRequest(["a"], "gguf", "int4"), "gguf has the precisions q8_0"),
        (ExportRequest(["a"], "onnx", "qdq-int8"), "is that of a target"),
        (ExportRequest(["a"], "gguf", target="vitisai"), "takes onnx"),
        (ExportRequest(["a"], "onnx", target="fpga"), "there is no target fpga"),
        (ExportRequest(["a", "b"], "merged"), "holds one model"),
        (ExportRequest(["a"], "merged", provider="cuda"), "only ONNX forms"),
    ],
)
def test_what_makes_no_sense_is_refused_without_a_worker(request_: ExportRequest, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        export(request_, lambda _: None, command=["false"])


def test_a_folder_that_exists_is_refused_without_a_worker(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="exists already"):
        export(ExportRequest(["a"], "merged", output=tmp_path), lambda _: None, command=["false"])


def test_a_folder_is_named_after_model_form_and_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert ExportRequest(["runs/one"], "gguf").folder == tmp_path / "exports" / "one-gguf-q8_0"
    assert ExportRequest(["org/a b"], "onnx", target="vitisai").folder.name == "a-b-onnx-qdq-int8-vitisai"


@pytest.mark.slow
def test_the_command_prints_what_was_found(place: Place) -> None:
    if not (place.folder / "runs" / "exported").exists():
        test_a_recipe_exports_after_training(place)
    environment = {**os.environ, "TUNESMITH_CACHE": str(place.folder / "cache"), "OMP_NUM_THREADS": "1"}
    program = "import sys; from tunesmith.cli.main import run; sys.exit(run(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", program, "export", "exported", "--to", "gguf", "--precision", "f16", "--rows", "4"],
        cwd=place.folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["measure", "exported", "PyTorch"]
    assert any(line.startswith("accuracy") for line in lines)
    assert any(line.startswith("greedy answers: 4 of 4 the same") for line in lines)
    assert "exports/exported-gguf-f16" in done.stderr
    assert (place.folder / "exports" / "exported-gguf-f16" / "model.gguf").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_command_that_is_ended_takes_its_worker_with_it(place: Place, tmp_path: Path, number: signal.Signals) -> None:
    command = [str(Path(sys.executable).with_name("tunesmith")), "export", "model", "--to", "onnx", "-o"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([*command, str(tmp_path / "one")], cwd=place.folder, env=environment) as process:
        workers = until(lambda: psutil.Process(process.pid).children(recursive=True))
        until(lambda: [path for path in tmp_path.iterdir() if path.name.startswith(".one.")])
        process.send_signal(number)
    gone, alive = psutil.wait_procs(workers, timeout=60)
    assert gone
    assert alive == []
    assert not (tmp_path / "one").exists()


def until(found: Callable[[], list[Any]]) -> list[Any]:
    """What is there as soon as something is."""
    end = time.monotonic() + 120
    while not (there := found()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return there
