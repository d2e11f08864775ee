"""Trackers: what a run's events become in each library, read back from what the library wrote."""

from __future__ import annotations

import builtins
import importlib.util
import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tunesmith.errors import TunesmithError, UsageError
from tunesmith.runs.atomic import write_json
from tunesmith.runs.events import open_events, read_events
from tunesmith.trackers import KINDS, Tracker, open_tracker

SCALARS = {
    ("train/loss", 1): 2.5,
    ("train/loss", 2): 1.25,
    ("train/learning_rate", 2): 1e-4,
    ("train/tokens_per_second", 1): 300.0,
    ("validation/loss", 2): 1.5,
    ("report/tuned/accuracy", 2): 0.75,
    ("report/base/loss", 2): 3.0,
}
UNWRITTEN = {("train/gradient_norm", 2)}  # it was not finite


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run's folder with the events of two steps, a validation, and a report."""
    folder = tmp_path / "runs" / "support-1"
    folder.mkdir(parents=True)
    write_json(
        folder / "resolved.json",
        {
            "portable": {"train.learning_rate": {"value": 1e-4, "reason": "given"}},
            "host": {"train.precision": {"value": "float32", "reason": "faster here"}},
        },
    )
    systems = [
        {"name": "base", "loss": {"value": 3.0}, "metrics": {"accuracy": {"value": None}}},
        {"name": "tuned", "loss": {"value": 1.0}, "metrics": {"accuracy": {"value": 0.75}}},
    ]
    write_json(folder / "report.json", {"systems": systems})
    events = open_events(folder / "events.jsonl")
    events.emit("status", state="started")
    events.emit("artifact", kind="resolved", path="resolved.json")
    events.emit("step", 1, loss=2.5, learning_rate=5e-5, gradient_norm=1.0, tokens=64, tokens_per_second=300)
    events.emit("step", 2, loss=1.25, learning_rate=1e-4, gradient_norm=None, tokens=64, tokens_per_second=310)
    events.emit("evaluation", 2, loss=1.5, rows=8, tokens=100)
    events.emit("warning", code="data.duplicates", message="3 rows are there twice")
    events.emit("artifact", kind="report", path="report.json")
    events.emit("status", state="finished")
    return folder


def track(kind: str, folder: Path) -> None:
    with open_tracker(kind, folder.name, folder) as tracker:
        for event in read_events(folder / "events.jsonl"):
            tracker.write(event)


def check_scalars(found: dict[tuple[str, int], float]) -> None:
    assert {key: found[key] for key in SCALARS} == pytest.approx(SCALARS, rel=1e-6)
    assert not UNWRITTEN & found.keys()


def needs(library: str) -> None:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed: pip install 'tunesmith[trackers]'")


def test_tensorboard_event_files_hold_every_scalar_and_the_parameters(run_folder):
    needs("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    track("tensorboard", run_folder)
    (file,) = (run_folder / "tensorboard").glob("events.out.tfevents.*")
    events = [Event.FromString(record) for record in length_prefixed(file.read_bytes())]
    values = [(event, value) for event in events for value in event.summary.value]
    check_scalars({(value.tag, event.step): value.simple_value for event, value in values})
    texts = {value.tag: value.tensor.string_val[0].decode() for _, value in values if value.tensor.string_val}
    assert "| train.learning_rate | 0.0001 |" in texts["resolved/text_summary"]
    times = {event.wall_time for event, value in values if value.tag == "train/loss"}
    written = {event.time for event in read_events(run_folder / "events.jsonl") if event.type == "step"}
    assert len(times) == len(written)


def test_mlflow_files_hold_every_metric_the_parameters_and_the_state(run_folder, monkeypatch):
    needs("mlflow")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow.tracking import MlflowClient

    track("mlflow", run_folder)
    client = MlflowClient(tracking_uri=(run_folder / "mlflow").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("tunesmith").experiment_id])
    assert run.info.run_name == "support-1"
    assert run.info.status == "FINISHED"
    assert run.data.params == {"train.learning_rate": "0.0001", "train.precision": "float32"}
    history = [client.get_metric_history(run.info.run_id, name) for name in run.data.metrics]
    check_scalars({(metric.key, metric.step): metric.value for metrics in history for metric in metrics})


def test_wandb_offline_files_hold_every_value_the_config_and_the_state(run_folder, monkeypatch):
    needs("wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    from wandb.proto.wandb_internal_pb2 import Record

    track("wandb", run_folder)
    (file,) = (run_folder / "wandb").rglob("run-*.wandb")
    # The library's own process writes the last lines, a moment after the run is finished.
    deadline = time.monotonic() + 10
    records = []
    while not any(record.HasField("exit") for record in records) and time.monotonic() < deadline:
        records = [Record.FromString(record) for record in leveldb_records(file.read_bytes())]
    (start,) = (record.run for record in records if record.HasField("run"))
    assert (start.display_name, start.project) == ("support-1", "tunesmith")
    found: dict[tuple[str, int], float] = {}
    for record in records:
        for item in record.history.item:
            name = item.key or "/".join(item.nested_key)
            found[name, record.history.step.num] = json.loads(item.value_json)
    check_scalars(found)
    config = {
        item.key or ".".join(item.nested_key): json.loads(item.value_json)
        for record in records
        for item in record.config.update
    }
    assert config["train.precision"] == "float32"
    (end,) = (record.exit for record in records if record.HasField("exit"))
    assert end.exit_code == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_library_names_the_command_that_installs_it(kind, run_folder, monkeypatch):
    library = {"tensorboard": "tensorboardX"}.get(kind, kind)
    real_import = builtins.__import__

    def import_without(name, *rest, **options):
        if name.partition(".")[0] == library:
            raise ModuleNotFoundError(f"No module named {library!r}", name=library)
        return real_import(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", import_without)
    with pytest.raises(UsageError) as raised:
        open_tracker(kind, "support-1", run_folder)
    assert raised.value.code == "usage.missing_extra"
    assert raised.value.hint == "pip install 'tunesmith[trackers]'"


def test_an_unknown_tracker_names_the_known_ones(tmp_path):
    with pytest.raises(UsageError, match="mlflow, tensorboard, wandb"):
        open_tracker("aim", "support-1", tmp_path)


def test_what_a_library_cannot_take_is_told_in_words(run_folder):
    class Full:
        ended = 0

        def scalars(self, values, step, time_seconds):
            raise ValueError("the store is closed")

        def parameters(self, values):
            pass

        def end(self, state):
            self.ended += 1

    sink = Full()
    tracker = Tracker("x", sink, run_folder)
    step = next(event for event in read_events(run_folder / "events.jsonl") if event.type == "step")
    with pytest.raises(TunesmithError, match="the store is closed") as raised:
        tracker.write(step)
    assert raised.value.code == "tracker.failed"
    tracker.close()
    tracker.close()
    assert sink.ended == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_tracker_loads_no_torch_and_asks_for_no_other_machine(kind, run_folder):
    needs({"tensorboard": "tensorboardX"}.get(kind, kind))
    program = f"""
import sys, pathlib
def note(event, arguments):
    if event == "socket.getaddrinfo" and arguments[0] not in ("127.0.0.1", "localhost"):
        print("asked for", arguments[0])
sys.addaudithook(note)
from tunesmith.trackers import open_tracker
from tunesmith.runs.events import read_events
folder = pathlib.Path({str(run_folder)!r})
with open_tracker({kind!r}, "support-1", folder) as tracker:
    for event in read_events(folder / "events.jsonl"):
        tracker.write(event)
print("torch" in sys.modules, flush=True)
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "WANDB"))}
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment, timeout=120
    )
    assert result.stdout == "False\n", result.stderr


def length_prefixed(content: bytes):
    """TFRecord: length, its checksum, the record, its checksum."""
    at = 0
    while at < len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        yield content[at + 12 : at + 12 + length]
        at += 12 + length + 4


def leveldb_records(content: bytes):
    """LevelDB's log as W&B writes it: a header of 7 bytes, then blocks of 32 KiB with records cut at their ends."""
    block, at, parts = 32768, 7, []
    while at < len(content):
        if block - at % block < 7:
            at += block - at % block
            continue
        _, length, part = struct.unpack_from("<IHB", content, at)
        parts.append(content[at + 7 : at + 7 + length])
        at += 7 + length
        if part in (1, 4):  # a whole record, or the last part of one
            yield b"".join(parts)
            parts = []
